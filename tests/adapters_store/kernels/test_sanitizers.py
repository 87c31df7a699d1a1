"""The C sources under the address and undefined-behaviour sanitizers: the kernel tests' main cases in a process whose
``_native`` was compiled with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from adapters_store import kernels

CSRC = Path(kernels.__file__).parent / "csrc"
ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("gcc")
CASES = [
    "test_exchange.py",
    "test_switch.py",
    "test_stage.py",
    "test_scan.py",
    "test_union.py",
    "test_rows.py",
    "test_linear.py",
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="needs gcc and its sanitizers")]

# Puts the sanitized module in the place of the installed one, then runs pytest.
RUNNER = """
import importlib.util, sys
import pytest, torch
spec = importlib.util.spec_from_file_location("adapters_store.kernels._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["adapters_store.kernels._native"] = module
sys.exit(pytest.main(["-x", "-s", "-p", "no:cacheprovider", "-k", "not reference", *sys.argv[2:]]))
"""


def build_sanitized(sources: Path, target: Path) -> None:
    assert COMPILER is not None
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    same_as_installed = ["-fopenmp", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared"]
    includes = [f"-I{sysconfig.get_paths()['include']}"]
    files = sorted(str(path) for path in sources.glob("*.c"))
    subprocess.run(
        [COMPILER, *flags, *same_as_installed, *includes, *files, "-o", str(target)], check=True, timeout=120
    )


def run_sanitized(module: Path, cases: list[str]) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    runtimes = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaks by design
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-c", RUNNER, str(module), *cases]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=300)


def test_the_kernels_are_clean_under_the_sanitizers(tmp_path: Path) -> None:
    module = tmp_path / "_native.so"
    build_sanitized(CSRC, module)
    here = Path(__file__).parent
    result = run_sanitized(module, [str(here / case) for case in CASES])
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout


def test_a_write_past_the_end_would_be_caught(tmp_path: Path) -> None:
    """The proof that the other test can fail: one word too many is written to what was displaced."""
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    text = (sources / "block_ops.h").read_text()
    broken = text.replace("displaced[j] = data[at];", "displaced[j] = data[at]; displaced[j + 1] = 0;")
    assert broken != text
    (sources / "block_ops.h").write_text(broken)
    module = tmp_path / "_native.so"
    build_sanitized(sources, module)
    result = run_sanitized(module, [str(Path(__file__).parent / "test_exchange.py")])
    assert result.returncode != 0
    assert "AddressSanitizer" in result.stderr
