"""``shira train``: a text file becomes an adapter file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@click.option("--model", help="Base to train for: a directory, a hub id or the default's name.")
@click.option("--mask", help="Which weights may change: wm or rand.")
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True), help="Share of each weight's entries.")
@click.option("--target", "targets", multiple=True, help="Module name or its last part; may be given more than once.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--learning-rate", type=float)
@click.option("--epochs", type=float)
@click.option("--max-steps", type=click.IntRange(min=1), help="Instead of epochs.")
@click.option("--batch-size", type=click.IntRange(min=1))
@click.option("--sequence-length", type=click.IntRange(min=2), help="Tokens per training sequence.")
@click.option("--held-out", type=click.FloatRange(0, 1), help="Share of the text kept for measuring.")
@click.option("--values-dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype in the file.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Dtype of forward and backward.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def train(*, text: Path, output: Path, model: str | None, is_json: bool, **given: Any) -> None:
    """Train the sparse adapter of one mask on TEXT. What is not given follows the paper's recipe."""
    import json
    from dataclasses import asdict

    from adapters_store.tools.train import TrainOptions
    from adapters_store.tools.train import train as run
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    config = load_config({"model": model}, os.environ)
    configure_logging(config.log_format, config.log_level)
    options = {key: value for key, value in given.items() if value not in (None, ())}
    model_dir = resolve_model(config.model, config.models_path)
    report = asdict(run(TrainOptions(model_dir=model_dir, text=text, output=output, **options)))
    if is_json:
        click.echo(json.dumps(report, indent=2, default=str))
        return
    for key, value in report.items():
        click.echo(f"{key}: {value}")
