"""A server for texts needs nothing of the extra ``images``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT = """
import sys
for name in ("accelerate", "diffusers", "greenlet", "PIL"):
    sys.modules[name] = None
"""


def run_without_images(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False)


def test_the_server_can_be_imported_without_them() -> None:
    done = run_without_images("import server.app, server.cli")
    assert done.returncode == 0, done.stderr


def test_a_picture_base_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    done = run_without_images(
        "import pathlib, server.runners.pipeline_loading as loading\n"
        f"loading.load_pipeline(pathlib.Path({str(tmp_path)!r}))"
    )
    assert "pip install 'shira-server[images]'" in done.stderr
