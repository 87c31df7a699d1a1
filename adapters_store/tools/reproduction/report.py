"""The cells as ``results.md`` and figures: nothing in there that is not in the cells, and no order but theirs."""

from __future__ import annotations

from pathlib import Path

from adapters_store.durable import make_dir_durably, write_durably
from adapters_store.tools.reproduction.cells import CellFolder
from adapters_store.tools.reproduction.tables import render

TABLES_FILE = "results.md"


def write_report(output_dir: Path) -> list[Path]:
    """Tables and figures of the cells in ``output_dir``; the files written."""
    return [write_tables(output_dir)]


def write_tables(output_dir: Path) -> Path:
    make_dir_durably(output_dir)
    path = output_dir / TABLES_FILE
    text = render(CellFolder(output_dir / "cells").all())
    write_durably(path, [text.encode()], tmp_dir=output_dir)
    return path
