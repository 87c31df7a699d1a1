"""The optional plots of the tools: matplotlib if it is installed, files written whole or not at all."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapters_store.durable import write_durably
from adapters_store.errors import TrainingRefused


def require_matplotlib() -> None:
    """Raises TrainingRefused; to be asked before hours are spent on what could not be drawn."""
    if find_spec("matplotlib") is None:
        raise TrainingRefused("plot", expected="pip install 'shira-server[train]'", got="matplotlib is not installed")


def write_png(figure: Any, path: Path) -> None:
    """``figure`` is a matplotlib Figure. Raises StorageFull, OSError."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_durably(path, [drawn.getvalue()], tmp_dir=path.parent)
