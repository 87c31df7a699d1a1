"""``shira train``: a file of text, or a folder of pictures, becomes an adapter file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from server.cli.options import field_option, keep_loading_quiet, model_option

MASKS = ("struct", "rand", "wm", "grad", "snip")

TEXT = "adapters_store.tools.train_options:TrainOptions"
PICTURES = "adapters_store.tools.pictures.options:PictureOptions"
recipe_option = field_option(TEXT, pictures=PICTURES)


@click.command(context_settings={"max_content_width": 120})
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
@model_option("Base to train for")
@recipe_option("--mask", type=click.Choice(MASKS), help="Which weights may change.")
@recipe_option("--sparsity", type=click.FloatRange(0, 1, min_open=True), help="Share of each weight's entries.")
@recipe_option("--rank", type=click.IntRange(min=1), help="Instead: R(rows + columns) entries each, as PEFT demands.")
@recipe_option("--task", type=click.IntRange(min=0), help="wm: which of several adapters that must not overlap.")
@recipe_option("--axis", type=click.Choice(["rows", "columns"]), help="struct: lines to take.")
@recipe_option("--offset", type=click.IntRange(min=0), help="struct: first line to take.")
@recipe_option("--calibration-examples", type=click.IntRange(min=1), help="grad, snip: examples to rank weights by.")
@recipe_option("--dora", is_flag=True, default=None, help="Text: train magnitude and direction apart (SHiRA-DoRA).")
@recipe_option(
    "--target", "targets", multiple=True, help="Module or the last part of its name; may be given more than once."
)
@recipe_option("--seed", type=click.IntRange(min=0), help="Of the random mask and of training.")
@recipe_option("--learning-rate", type=float, help="At the start.")
@recipe_option("--schedule", type=click.Choice(["linear", "cosine", "constant"]), help="How the learning rate falls.")
@recipe_option("--epochs", type=float, help="Passes through the data.")
@recipe_option("--max-steps", type=click.IntRange(min=1), help="Instead of epochs.")
@recipe_option("--batch-size", type=click.IntRange(min=1), help="Examples per step.")
@recipe_option(
    "--sequence-length",
    type=click.IntRange(min=2),
    help="Text: tokens per example of running text; the most a line may have.",
)
@recipe_option("--held-out", type=click.FloatRange(0, 1), help="Share of the data kept for measuring.")
@recipe_option("--values-dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Dtype in the file.")
@recipe_option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Dtype of the model while it trains.")
@recipe_option("--device", type=click.Choice(["cpu", "cuda"]), help="Where training runs.")
@recipe_option("--checkpoint-steps", type=click.IntRange(min=1), help="Steps between checkpoints.")
@recipe_option("--caption", help="Pictures: the caption of them all, in the place of captions in the folder.")
@recipe_option(
    "--prior-data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pictures: a second folder, of what the base should go on drawing; one for each of DATA.",
)
@recipe_option("--prior-caption", help="Pictures: the caption of all prior ones.")
@recipe_option("--prior-weight", type=float, help="Pictures: weight of the prior ones' loss.")
@recipe_option("--caption-dropout", type=click.FloatRange(0, 1), help="Pictures: share of captions left out.")
@recipe_option("--flip", is_flag=True, default=None, help="Pictures: mirror half of them.")
@recipe_option("--resolution", type=click.IntRange(min=1), help="Pictures: pixels a side; the base's own if not given.")
@recipe_option("--snr-gamma", type=float, help="Pictures: weigh timesteps by min-SNR with this gamma.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted training of the same recipe stopped.")
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def train(*, data: Path, output: Path, model: str | None, is_json: bool, **given: Any) -> None:
    """Train the sparse adapter of one mask on DATA. For a language model: running text, or JSON lines (*.jsonl) of
    {"prompt", "completion"} or {"messages"}. For a pipeline that draws: a folder of pictures with a metadata.jsonl of
    {"file_name", "text"}, a name.txt beside each name.png, or --caption for all. What is not given follows the paper's
    recipe."""
    import json
    from dataclasses import asdict

    from adapters_store.base_files import is_pipeline
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    config = load_config({"model": model}, os.environ)
    configure_logging(config.log_format, config.log_level)
    keep_loading_quiet()
    model_dir = resolve_model(config.model, config.models_path)
    options = {key: value for key, value in given.items() if value not in (None, ())}
    options |= {"model_dir": model_dir, "data": data, "output": output}
    run, recipe = _on_pictures(options) if is_pipeline(model_dir) else _on_text(options)
    try:
        report = asdict(run(recipe))
    except KeyboardInterrupt:
        if recipe.progress_dir.exists():
            click.echo("Interrupted; the same command with --resume goes on from the last checkpoint.", err=True)
        raise
    if is_json:
        click.echo(json.dumps(report, indent=2, default=str))
        return
    for key, value in report.items():
        click.echo(f"{key}: {value}")


def _on_text(options: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
    """What trains, and what it is told."""
    from adapters_store.tools.train import TrainOptions, train

    return train, TrainOptions(**_only_fields_of(TrainOptions, options, "a pipeline that draws pictures"))


def _on_pictures(options: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
    from adapters_store.tools.pictures.options import PictureOptions, check_picture_packages

    check_picture_packages()
    from diffusers.utils import logging

    from adapters_store.tools.pictures.train import train_pictures

    logging.disable_progress_bar()
    if "epochs" in options:
        options = {"max_steps": None, **options}
    return train_pictures, PictureOptions(**_only_fields_of(PictureOptions, options, "a language model"))


def _only_fields_of(kind: Any, options: dict[str, Any], other: str) -> dict[str, Any]:
    """Raises TrainingRefused for an option that belongs to the other kind of base."""
    from dataclasses import fields

    from adapters_store.errors import TrainingRefused

    foreign = set(options) - {field.name for field in fields(kind)}
    for name in sorted(foreign):
        raise TrainingRefused(name, expected=f"only with {other} as the base", got=repr(options[name]))
    return options
