"""``shira eval``: how well a base, adapters and blends of them do on data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.fuse import METHODS
from server.cli.options import field_option, keep_loading_quiet, model_option

if TYPE_CHECKING:
    from adapters_store.tools.evaluate_options import BlendSpec

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
METRICS = ("perplexity", "exact-match")
PRECISIONS = ("stored", "bfloat16", "float16", "float32")


eval_option = field_option("adapters_store.tools.evaluate_options:EvalOptions")


def _scales(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(_number(number, text) for number in text.split(","))


def _blends(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[BlendSpec, ...]:
    return tuple(parse_blend(text) for text in texts)


@click.command("eval", context_settings={"max_content_width": 120})
@model_option("Base")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=FILE,
    help="Running text or JSON lines (*.jsonl), as for training; one file per option.",
)
@eval_option(
    "--adapter",
    "adapters",
    multiple=True,
    type=FILE,
    help="Native file, known by its name without the suffix; one file per option.",
)
@eval_option(
    "--blend",
    "blends",
    multiple=True,
    callback=_blends,
    metavar="NAME=SCALE,…[:METHOD[:DENSITY]]",
    help="Of the adapters given, such as a=1,b=0.5:ties; sum is the method if none is named.",
)
@eval_option(
    "--scales",
    callback=_scales,
    metavar="NUMBER,…",
    help="Each adapter, and each blend as a whole, is measured at these.",
)
@eval_option("--metric", "metrics", multiple=True, type=click.Choice(METRICS), help="May be given more than once.")
@eval_option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Measure only what training with this --held-out and this --sequence-length keeps for measuring.",
)
@eval_option("--sequence-length", type=click.IntRange(min=2), help="Tokens per example; the most a line may have.")
@eval_option("--batch-size", type=click.IntRange(min=1), help="Examples at a time.")
@eval_option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Exact match: let the model answer at this length, instead of cutting it off where the completion ends.",
)
@eval_option("--precision", type=click.Choice(PRECISIONS), help="Dtype of the model; stored is what the server loads.")
@eval_option("--device", type=click.Choice(["cpu", "cuda"]), help="Where the model runs.")
@eval_option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG of the figures against the scale.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True), help="Write JSON; - prints it.")
def evaluate(*, model: str | None, json_file: str | None, **given: Any) -> None:
    """Measure the base, each --adapter and each --blend on --data: perplexity, or exact match of greedy answers."""
    from adapters_store.durable import write_durably
    from adapters_store.tools.evaluate import evaluate as run
    from adapters_store.tools.evaluate_options import EvalOptions
    from adapters_store.tools.evaluate_report import as_json, render
    from adapters_store.tools.output_file import check_output
    from server.core.config import load_config
    from server.core.log import configure_logging
    from server.runners.loading import resolve_model

    to_file = Path(json_file) if json_file not in (None, "-") else None
    if to_file is not None:
        check_output(to_file, [*given["data"], *given["adapters"]], field="json")
    config = load_config({"model": model}, os.environ)
    configure_logging(config.log_format, config.log_level)
    keep_loading_quiet()
    options = {key: value for key, value in given.items() if value not in (None, ())}
    report = run(EvalOptions(model_dir=resolve_model(config.model, config.models_path), **options))
    if to_file is not None:
        write_durably(to_file, [as_json(report).encode()], tmp_dir=to_file.parent)
    click.echo(as_json(report) if json_file == "-" else render(report))


def parse_blend(text: str) -> BlendSpec:
    """``name=scale,…[:method[:density]]``. Raises BadParameter."""
    from adapters_store.blend import Fusion
    from adapters_store.tools.evaluate_options import BlendSpec

    named, _, tail = text.partition(":")
    method, _, density = tail.partition(":")
    if method and method not in METHODS:
        raise click.BadParameter(f"{text}: expected one of {', '.join(METHODS)} after the colon, got {method!r}")
    members = []
    for member in named.split(","):
        name, sign, scale = member.rpartition("=")
        if not sign or not name:
            raise click.BadParameter(f"{text}: expected NAME=SCALE, got {member!r}")
        members.append((name.strip(), _number(scale, text)))
    fusion = Fusion(method=method or "sum", density=_number(density, text) if density else None)  # type: ignore[arg-type]
    return BlendSpec(members=tuple(members), fusion=fusion)


def _number(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise click.BadParameter(f"{text}: expected a number, got {number!r}") from None
