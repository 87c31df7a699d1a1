"""``shira bench``: measurements on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from server.cli.bench_pictures import pictures
from server.cli.bench_serve import serve
from server.core.waiting import wait_passively


@click.group()
def bench() -> None:
    """Measure on this machine."""


bench.add_command(serve)
bench.add_command(pictures)


@bench.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def switch(arguments: tuple[str, ...]) -> int:
    """Time switching against LoRA, PEFT, torch and the floor (see shira bench switch --help)."""
    from adapters_store.tools import bench_switch

    return bench_switch.main(arguments)


@bench.command()
@click.argument("adapter", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Rows decoded together.")
@click.option("--tokens", "num_tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens a row.")
@click.option("--rounds", "num_rounds", type=click.IntRange(1), default=11, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def decode(adapter: Path, batch: int, num_tokens: int, num_rounds: int, as_json: bool) -> None:
    """Time decoding with ADAPTER fused against the base, interleaved."""
    wait_passively(os.environ)
    from server.bench_decode import run
    from server.core.config import load_config
    from server.runners.loading import load_llm, resolve_model

    config = load_config({}, os.environ)
    loaded = load_llm(resolve_model(config.model, config.models_path), dtype=config.dtype, device=config.device)
    run(loaded, adapter, batch=batch, num_tokens=num_tokens, num_rounds=num_rounds, as_json=as_json)


@bench.command()
@click.argument("adapters", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def modes(adapters: tuple[Path, ...], as_json: bool) -> None:
    """Measure how far the logits of the first of ADAPTERS differ between fused and mixed, alone and in a batch."""
    from transformers.utils import logging as transformers_logging

    from server.bench_modes import run
    from server.core.config import load_config
    from server.runners.loading import resolve_model

    transformers_logging.disable_progress_bar()  # of loading weights
    config = load_config({}, os.environ)
    run(resolve_model(config.model, config.models_path), adapters, as_json=as_json)


@bench.command()
@click.option("--adapters", "num_adapters", type=click.IntRange(1), default=8, show_default=True, help="How many.")
@click.option("--mask", type=click.Choice(["wm", "rand"]), default="wm", show_default=True, help="rand shares nothing.")
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def sharing(as_json: bool, **chosen: Any) -> None:
    """Measure the bytes that adapters of one mask take on every tier, against as many files."""
    from server.bench_sharing import SharingOptions, run
    from server.core.config import load_config
    from server.runners.loading import resolve_model

    config = load_config({}, os.environ)
    model_dir = resolve_model(config.model, config.models_path)
    run(SharingOptions(model_dir=model_dir, **chosen), as_json=as_json)


@bench.command(context_settings={"max_content_width": 120})
@click.option("--model", help="A directory, a hub id or the default's name.  [default: the configured base]")
@click.option(
    "--random-params", type=click.FloatRange(min=1e6), help="Instead: a random Llama of about so many parameters."
)
@click.option("--rank", type=click.IntRange(1), default=4, show_default=True, help="rank · (rows + columns) entries.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Sequences per step.")
@click.option("--sequence-length", type=click.IntRange(2), default=128, show_default=True, help="Tokens per sequence.")
@click.option("--precision", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True)
@click.option("--rounds", "num_rounds", type=click.IntRange(1), default=9, show_default=True, help="Steps of each.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the tokens and a random base.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
def train(*, model: str | None, random_params: float | None, num_rounds: int, is_json: bool, **chosen: Any) -> None:
    """Time training steps and measure their memory, against LoRA and PEFT's SHiRA of as many parameters."""
    from transformers.utils import logging as transformers_logging

    from adapters_store.tools.bench_train import run
    from adapters_store.tools.bench_train_contenders import TrainCase
    from server.core.config import load_config
    from server.runners.loading import resolve_model

    if model is not None and random_params is not None:
        raise click.UsageError("--model and --random-params exclude each other")
    if random_params is not None:
        case = TrainCase(model_dir=None, random_params=int(random_params), **chosen)
    else:
        config = load_config({"model": model}, os.environ)
        case = TrainCase(model_dir=resolve_model(config.model, config.models_path), **chosen)
    transformers_logging.disable_progress_bar()  # of loading weights
    run(case, num_rounds=num_rounds, is_json=is_json)
