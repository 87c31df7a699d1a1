"""``shira extract``: what a fine-tuning changed becomes an adapter file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.cli.convert import VALUES_DTYPE, resolved


@click.command(context_settings={"max_content_width": 120})
@click.argument("base")
@click.argument("finetuned", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--values-dtype", type=VALUES_DTYPE, default="float32", show_default=True, help="Dtype in the file.")
@click.option(
    "--max-density",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="Largest share of all elements that may differ.",
)
@click.option("--allow-rounding", is_flag=True, help="Write the nearest value where none is exact.")
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def extract(*, base: str, is_json: bool, finetuned: Path, **given: Any) -> None:
    """Write the exact sparse difference of two checkpoints: FINETUNED minus BASE (a directory or a model's name)."""
    import json
    from dataclasses import asdict

    from adapters_store.tools.extract import ExtractOptions, render
    from adapters_store.tools.extract import extract as run

    report = run(ExtractOptions(base_dir=resolved(base), finetuned_dir=finetuned, **given))
    click.echo(json.dumps(asdict(report), indent=2, default=str) if is_json else render(report))
