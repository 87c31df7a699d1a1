"""The one part of the build that pyproject.toml cannot say: the C kernels, optional where there is no compiler."""

import sys
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

OPENMP = "-fopenmp"


class BuildKernels(build_ext):
    """Where the compiler has no OpenMP the kernels are built without: one thread, everything else the same."""

    def build_extension(self, ext: Any) -> None:
        try:
            super().build_extension(ext)
        except (CompileError, LinkError):
            for flags in (ext.extra_compile_args, ext.extra_link_args):
                flags.remove(OPENMP)
            self.warn(f"building {ext.name} without OpenMP: its kernels will use one thread")
            super().build_extension(ext)


def kernels(package: str) -> Extension:
    """``package._native`` from the C files in its ``csrc``."""
    sources = Path(*package.split("."), "csrc")
    return Extension(
        f"{package}._native",
        sources=sorted(str(path) for path in sources.glob("*.c")),
        depends=sorted(str(path) for path in sources.glob("*.h")),
        # No contraction: a fused multiply-add would round a sum once where the reference rounds twice.
        extra_compile_args=["-O3", OPENMP, "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden"],
        extra_link_args=[OPENMP],
        libraries=[] if sys.platform == "win32" else ["m"],
        py_limited_api=True,
        optional=True,
    )


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[kernels("adapters_store.kernels"), kernels("server.runners.ops")],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
