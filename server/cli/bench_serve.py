"""``shira bench serve``: presets, or one workload of one's own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, get_args

import click

from server.bench_serve.custom import Baseline, custom
from server.bench_serve.plan import Plan
from server.bench_serve.presets import PRESETS, Scale
from server.bench_serve.workload import Lengths, Popularity, WorkloadSpec
from server.engine.limits import Limits

BOUNDING = ("max_batch", "max_step_tokens", "patience_steps")  # the settings that bound how long a request waits
PRESET_HELP = "May be repeated. " + " ".join(f"{name}: {preset.__doc__}" for name, preset in PRESETS.items())


def _lengths(context: click.Context, parameter: click.Parameter, value: str) -> Lengths:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
    if match is None:
        raise click.BadParameter(f"expected a number such as 64 or a range such as 16-256, got {value!r}")
    try:
        return Lengths(low=int(match[1]), high=int(match[2] or match[1]))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if not re.match(r"[a-z_]+=", value):
            raise click.BadParameter(f"expected a setting of the server such as max_batch=16, got {value!r}")
    return dict(value.split("=", 1) for value in values)


def _shares(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected shares such as 0.7,0.3, got {value!r}") from error


@click.command(context_settings={"max_content_width": 120})
@click.option("--preset", "presets", type=click.Choice(list(PRESETS)), multiple=True, help=PRESET_HELP)
@click.option("--adapters", "num_adapters", type=click.IntRange(0), default=16, show_default=True, help="Asked for.")
@click.option("--held", "num_held", type=click.IntRange(0), help="Uploaded.  [default: as many as are asked for]")
@click.option("--room-for", type=click.IntRange(1), help="Adapters that fit on host and device.  [default: all]")
@click.option("--popularity", type=click.Choice(get_args(Popularity)), default="zipf", show_default=True)
@click.option("--zipf", "zipf_exponent", type=float, default=1.0, show_default=True, help="Its exponent.")
@click.option("--burst-length", type=click.IntRange(1), default=8, show_default=True, help="Requests in a row.")
@click.option(
    "--base-share", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Requests for the base."
)
@click.option("--concurrency", type=click.IntRange(1), default=32, show_default=True, help="Clients, closed loop.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Instead: arrivals per second, open loop.")
@click.option("--keys", "key_shares", callback=_shares, default="1", show_default=True, help="Each API key's share.")
@click.option("--baseline", "baselines", type=click.Choice(get_args(Baseline)), multiple=True, help="May be repeated.")
@click.option("--requests-per-client", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--prompt-tokens", callback=_lengths, default="64", show_default=True, help="N, or LOW-HIGH: log-uniform."
)
@click.option("--new-tokens", callback=_lengths, default="64", show_default=True, help="N, or LOW-HIGH: log-uniform.")
@click.option("--model", help="A directory, a hub id or the default's name.  [default: the configured base]")
@click.option("--random-params", type=click.FloatRange(min=1e6), help="Instead: a random Llama of about that size.")
@click.option("--sparsity", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True)
@click.option(
    "--server-option", "server_options", multiple=True, callback=_settings, help="key=value; may be repeated."
)
@click.option("--threads", type=click.IntRange(1), help="Of the servers and the offline baselines.")
@click.option("--vllm", "vllm_python", type=click.Path(exists=True, path_type=Path), help="A Python that has vLLM.")
@click.option("--rounds", "num_rounds", type=click.IntRange(1), default=5, show_default=True, help="Cells take turns.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--work-dir", type=click.Path(path_type=Path), help="Keeps models and LoRAs.  [default: in the data dir]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="One object per cell and per target.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="PNG.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Markdown.")
def serve(presets: tuple[str, ...], model: str | None, work_dir: Path | None, **chosen: Any) -> int:
    """Measure serving through HTTP: many adapters at once, beside the base, transformers, PEFT and vLLM."""
    plans = _preset_plans(presets, chosen) if presets else (_custom_plan(chosen),)
    from server.bench_serve.options import BenchOptions
    from server.bench_serve.run import run
    from server.core.config import load_config
    from server.runners.loading import resolve_model

    config = load_config({"model": model}, os.environ)
    kept = ("sparsity", "threads", "num_rounds", "seed", "server_options", "vllm_python")
    files = ("json_file", "plot_file", "report_file")
    random_params = chosen["random_params"]
    run(
        BenchOptions(
            plans=plans,
            model_dir=resolve_model(config.model, config.models_path),
            random_params=None if random_params is None else int(random_params),
            work_dir=(work_dir or config.data_dir / "bench").absolute(),
            **{name: chosen[name] for name in kept + files},
        )
    )
    return 0


def _preset_plans(presets: tuple[str, ...], chosen: dict[str, Any]) -> tuple[Plan, ...]:
    scale = Scale(
        requests_per_client=chosen["requests_per_client"],
        prompt_tokens=chosen["prompt_tokens"],
        new_tokens=chosen["new_tokens"],
        limits=_limits(chosen["server_options"]),
    )
    return tuple(PRESETS[name](scale) for name in presets)


def _limits(server_options: dict[str, str]) -> Limits:
    try:
        given: dict[str, Any] = {name: int(value) for name, value in server_options.items() if name in BOUNDING}
    except ValueError as error:
        raise click.UsageError(f"--server-option: {error}") from error
    return Limits(**given)


def _custom_plan(chosen: dict[str, Any]) -> Plan:
    is_open = chosen["rate"] is not None
    taken = ("num_adapters", "popularity", "zipf_exponent", "burst_length", "base_share", "key_shares")
    try:
        workload = WorkloadSpec(
            num_requests=chosen["concurrency"] * chosen["requests_per_client"],
            concurrency=None if is_open else chosen["concurrency"],
            rate_per_s=chosen["rate"],
            prompt_tokens=chosen["prompt_tokens"],
            new_tokens=chosen["new_tokens"],
            **{name: chosen[name] for name in taken},
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    num_held = chosen["num_adapters"] if chosen["num_held"] is None else chosen["num_held"]
    if num_held < workload.num_adapters:
        raise click.UsageError(
            f"--held: expected at least --adapters, which is {workload.num_adapters}, got {num_held}"
        )
    if is_open and chosen["baselines"] and set(chosen["baselines"]) != {"vllm"}:
        raise click.UsageError("--rate: the offline baselines have no clock: leave them out, or give a --concurrency")
    return custom(workload, num_held=num_held, room_for=chosen["room_for"], baselines=chosen["baselines"])
