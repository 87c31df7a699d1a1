"""``shira convert``: adapters of PEFT become native files, and native files PEFT's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from server.cli.options import keep_loading_quiet, model_option

VALUES_DTYPE = click.Choice(["float32", "bfloat16", "float16"])


@click.command(context_settings={"max_content_width": 120})
@click.argument("source", metavar="INPUT", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="File or, for peft, folder to write."
)
@click.option("--to", type=click.Choice(["native", "peft", "diffusers"]), default="native", show_default=True)
@model_option("Model the adapter was made for", flag="--base")
@click.option(
    "--sparsity",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.01,
    show_default=True,
    help="Share of each weight to keep of a dense type, such as LoRA.",
)
@click.option("--values-dtype", type=VALUES_DTYPE, help="Dtype in the output.  [default: the source's]")
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
def convert(*, base: str | None, is_json: bool, **given: Any) -> None:
    """Convert the adapter INPUT, a file or a PEFT folder: SHiRA to and fro without loss, LoRA and other types that
    merge into weights by keeping the largest entries of each."""
    import json

    from adapters_store.tools.convert import ConvertOptions, as_dict, render
    from adapters_store.tools.convert import convert as run

    report = run(ConvertOptions(base_dir=resolved(base), **given))
    click.echo(json.dumps(as_dict(report), indent=2, default=str) if is_json else render(report))


def resolved(model: str | None) -> Path:
    """The checkpoint directory of a model's name; None is the configured model."""
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    config = load_config({"model": model}, os.environ)
    configure_logging(config.log_format, config.log_level)
    keep_loading_quiet()
    return resolve_model(config.model, config.models_path)
