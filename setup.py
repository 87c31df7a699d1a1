"""The one part of the build that pyproject.toml cannot say: the C kernels, optional where there is no compiler."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("adapters_store/kernels/csrc")

setup(
    ext_modules=[
        Extension(
            "adapters_store.kernels._native",
            sources=sorted(str(path) for path in SOURCES.glob("*.c")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            extra_compile_args=["-O3", "-fopenmp", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra"],
            extra_link_args=["-fopenmp"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
