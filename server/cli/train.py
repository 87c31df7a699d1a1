"""``shira train``: a file of examples becomes an adapter file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from server.cli.options import field_option, keep_loading_quiet, model_option

MASKS = ("struct", "rand", "wm", "grad", "snip")

recipe_option = field_option("adapters_store.tools.train_options:TrainOptions")


@click.command(context_settings={"max_content_width": 120})
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@model_option("Base to train for")
@recipe_option("--mask", type=click.Choice(MASKS), help="Which weights may change.")
@recipe_option("--sparsity", type=click.FloatRange(0, 1, min_open=True), help="Share of each weight's entries.")
@recipe_option("--rank", type=click.IntRange(min=1), help="Instead: R(rows + columns) entries each, as PEFT demands.")
@recipe_option("--task", type=click.IntRange(min=0), help="wm: which of several adapters that must not overlap.")
@recipe_option("--axis", type=click.Choice(["rows", "columns"]), help="struct: lines to take.")
@recipe_option("--offset", type=click.IntRange(min=0), help="struct: first line to take.")
@recipe_option("--calibration-examples", type=click.IntRange(min=1), help="grad, snip: examples to rank weights by.")
@recipe_option("--dora", is_flag=True, help="Train magnitude and direction apart (SHiRA-DoRA).")
@recipe_option("--target", "targets", multiple=True, help="Module name or its last part; may be given more than once.")
@recipe_option("--seed", type=click.IntRange(min=0), help="Of the random mask and of training.")
@recipe_option("--learning-rate", type=float, help="At the start.")
@recipe_option("--schedule", type=click.Choice(["linear", "cosine", "constant"]), help="How the learning rate falls.")
@recipe_option("--epochs", type=float, help="Passes through the data.")
@recipe_option("--max-steps", type=click.IntRange(min=1), help="Instead of epochs.")
@recipe_option("--batch-size", type=click.IntRange(min=1), help="Examples per step.")
@recipe_option(
    "--sequence-length",
    type=click.IntRange(min=2),
    help="Tokens per example of running text; the most a line may have.",
)
@recipe_option("--held-out", type=click.FloatRange(0, 1), help="Share of the data kept for measuring.")
@recipe_option("--values-dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype in the file.")
@recipe_option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Dtype of the model while it trains.")
@recipe_option("--device", type=click.Choice(["cpu", "cuda"]), help="Where training runs.")
@recipe_option("--checkpoint-steps", type=click.IntRange(min=1), help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted training of the same recipe stopped.")
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def train(*, data: Path, output: Path, model: str | None, is_json: bool, **given: Any) -> None:
    """Train the sparse adapter of one mask on DATA: running text, or JSON lines (*.jsonl) of {"prompt", "completion"}
    or {"messages"}. What is not given follows the paper's recipe."""
    import json
    from dataclasses import asdict

    from adapters_store.tools.train import TrainOptions
    from adapters_store.tools.train import train as run
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    config = load_config({"model": model}, os.environ)
    configure_logging(config.log_format, config.log_level)
    keep_loading_quiet()
    options = {key: value for key, value in given.items() if value not in (None, ())}
    model_dir = resolve_model(config.model, config.models_path)
    train_options = TrainOptions(model_dir=model_dir, data=data, output=output, **options)
    try:
        report = asdict(run(train_options))
    except KeyboardInterrupt:
        if train_options.progress_dir.exists():
            click.echo("Interrupted; the same command with --resume goes on from the last checkpoint.", err=True)
        raise
    if is_json:
        click.echo(json.dumps(report, indent=2, default=str))
        return
    for key, value in report.items():
        click.echo(f"{key}: {value}")
