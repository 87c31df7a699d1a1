"""``shira reproduce``: a small reproduction of the SHiRA paper, resumable, its report made of its cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from server.cli.options import model_option

DIR = click.Path(file_okay=False, path_type=Path)
FULL = {"steps": 1000, "batch_size": 16, "sequence_length": 256, "num_validation": 32, "num_test": 64}


@click.command(context_settings={"max_content_width": 120})
@click.option("--data-dir", type=DIR, default=Path(".cache/reproduction/data"), show_default=True, help="The texts.")
@click.option("--output", "output_dir", type=DIR, help="Cells and report.  [default: docs/reproduction]")
@click.option("--work-dir", type=DIR, default=Path(".cache/reproduction"), show_default=True, help="Trained adapters.")
@model_option("Base to train for")
@click.option("--method", "methods", multiple=True, help="Only this one; may be given more than once.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps of each run.  [default: 96]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Sequences per step.  [default: 2]")
@click.option("--sequence-length", type=click.IntRange(min=2), help="Tokens per sequence.  [default: 128]")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="[default: cpu; with --full cuda where there is one]"
)
@click.option("--full", "is_full", is_flag=True, help="Three seeds of every method, 4 M tokens a run, more test text.")
@click.option("--max-cells", type=click.IntRange(min=1), help="Stop after so many new cells.")
@click.option("--commit", "is_committed", is_flag=True, help="Commit each cell to git once it is finished.")
@click.option("--report", "is_report", is_flag=True, help="Only render the cells that are there.")
def reproduce(
    *, output_dir: Path | None, is_full: bool, max_cells: int | None, is_committed: bool, is_report: bool, **given: Any
) -> None:
    """Train LoRA and SHiRA of every mask on three texts, alone and fused, and report what came out.

    Runs every cell that is missing and may be stopped at any time: cells that are finished are kept. The texts are made
    by examples/prepare_reproduction.sh."""
    from adapters_store.tools.reproduction.report import write_report

    output_dir = output_dir or Path("docs/reproduction/full" if is_full else "docs/reproduction")
    if not is_report:
        _run(output_dir, is_full=is_full, max_cells=max_cells, is_committed=is_committed, given=given)
    for path in write_report(output_dir):
        click.echo(path)


def _run(output_dir: Path, *, is_full: bool, max_cells: int | None, is_committed: bool, given: dict[str, Any]) -> None:
    import logging
    from itertools import islice

    import torch
    from transformers.utils import logging as transformers_logging

    from adapters_store.tools.reproduction.commit import commit
    from adapters_store.tools.reproduction.grid import run_grid
    from adapters_store.tools.reproduction.report import write_tables
    from adapters_store.tools.reproduction.settings import Settings
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    config = load_config({"model": given.pop("model")}, os.environ)
    configure_logging(config.log_format, config.log_level)
    transformers_logging.disable_progress_bar()  # of loading weights, twice a cell
    options = {key: value for key, value in given.items() if value not in (None, ())}
    if is_full:
        seeds = Settings.__dataclass_fields__["seeds"].default
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options = {**FULL, "other_seeds": seeds, "device": device, **options}
    model_dir = resolve_model(config.model, config.models_path)
    settings = Settings(model_dir=model_dir, output_dir=output_dir, **options)
    uncommitted: list[Path] = []
    for cell in islice(run_grid(settings), max_cells):
        logging.getLogger(__name__).info("finished %s: %s", cell.key, cell.seconds)
        tables = write_tables(output_dir)
        if is_committed:
            uncommitted.append(settings.cells_dir / f"{cell.key}.json")
            if commit([*uncommitted, tables], f"Measure {cell.key} of the reproduction"):
                uncommitted.clear()
