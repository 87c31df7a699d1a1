"""The cells as ``results.md`` and figures: nothing in there that is not in the cells."""

from __future__ import annotations

from pathlib import Path

from adapters_store.durable import make_dir_durably, write_durably
from adapters_store.tools.plotting import require_matplotlib
from adapters_store.tools.reproduction.cells import CellFolder
from adapters_store.tools.reproduction.plots import draw_alone, draw_alpha, draw_fused
from adapters_store.tools.reproduction.summary import Summary
from adapters_store.tools.reproduction.tables import render

TABLES_FILE = "results.md"


def write_report(output_dir: Path) -> list[Path]:
    """Tables and figures of the cells in ``output_dir``; the files written.

    Raises TrainingRefused for cells that do not belong together, or without matplotlib."""
    written = [write_tables(output_dir)]
    cells = CellFolder(output_dir / "cells").all()
    if "base" not in cells:
        return written
    require_matplotlib()
    summary = Summary(cells)
    if summary.alone_methods:
        draw_alone(summary, output_dir / "alone.png")
        written.append(output_dir / "alone.png")
    if summary.fused_methods:
        draw_fused(summary, output_dir / "fused.png")
        draw_alpha(summary, output_dir / "alpha.png")
        written += [output_dir / "fused.png", output_dir / "alpha.png"]
    return written


def write_tables(output_dir: Path) -> Path:
    """``results.md`` alone."""
    make_dir_durably(output_dir)
    path = output_dir / TABLES_FILE
    text = render(CellFolder(output_dir / "cells").all())
    write_durably(path, [text.encode()], tmp_dir=output_dir)
    return path
