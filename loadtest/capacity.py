"""``python -m loadtest.capacity``: the highest mean rate of a scenario at which the objectives hold.

The rate is raised until an objective breaks, then the gap is halved. Memory is not judged, nor whether the servers'
histograms agree, nor what no request of a probe tells of: it is too short for that.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from adapters_store.tools.bench_report import machine
from loadtest.capacity_file import write_capacity
from loadtest.drawing import draw_trace
from loadtest.run import OUT
from loadtest.scenario import load_scenario
from loadtest.servers import running_world
from loadtest.session import Session, run_session
from loadtest.slo import load_slos
from server.core.config import load_config
from server.core.errors import ServerError

HERE = Path(__file__).parent
SCENARIO, SLOS = HERE / "scenarios" / "mixed_day.toml", HERE / "slo" / "mixed_day.toml"
STEP, PRECISION, MAX_PROBES = 1.5, 1.1, 12
WARM_UP_SEED = 2**31
NOT_JUDGED = ("memory_", "p99_buckets_apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """``broken``: the objectives that did not hold."""

    rate_per_s: float
    broken: tuple[str, ...]


def find_capacity(probe: Callable[[float], Probe], *, start_per_s: float) -> tuple[float, list[Probe]]:
    """The highest rate that held, with one that did not at most ``PRECISION`` times as high, and all probes; 0.0 where
    none held."""
    probes: list[Probe] = []
    low, high = 0.0, math.inf
    while len(probes) < MAX_PROBES and high > PRECISION * low:
        rate = (low + high) / 2 if high < math.inf else max(low * STEP, start_per_s)
        probes.append(probe(rate))
        if probes[-1].broken:
            high = rate
        else:
            low = rate
    return low, probes


def broken_by(session: Session) -> tuple[str, ...]:
    """What speaks against the rate of a probe: without one answer or refusal, that there is none."""
    if "availability_percent" not in session.figures:
        return ("nothing was asked",)
    measured = [verdict for verdict in session.verdicts if verdict.value is not None]
    return (*session.failures, *(str(verdict) for verdict in measured if not verdict.is_met))


@click.command(context_settings={"max_content_width": 120})
@click.argument("scenario_file", metavar="[SCENARIO]", type=click.Path(path_type=Path), default=SCENARIO)
@click.option("--slo", "slo_file", type=click.Path(path_type=Path), default=SLOS, help="Objectives, TOML.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT / "capacity.json", show_default=True)
@click.option(
    "--start", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="First rate."
)
@click.option("--probe-seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--server-core", type=int, help="Both servers run on this core alone.")
@click.option("--generator-core", type=int, help="Locust runs on this core alone.")
def main(  # noqa: PLR0917 - click passes them by name
    scenario_file: Path,
    slo_file: Path,
    out: Path,
    start: float,
    probe_seconds: float,
    seed: int,
    server_core: int | None,
    generator_core: int | None,
) -> None:
    """Searches the capacity for SCENARIO, by default the mixed day."""
    try:
        scenario = load_scenario(scenario_file).changed(duration_s=probe_seconds)
        slos = tuple(slo for slo in load_slos(slo_file) if not slo.figure.startswith(NOT_JUDGED))
        with tempfile.TemporaryDirectory(prefix="shira-capacity-") as scratch:
            models_dir = load_config({}, os.environ).models_path
            with running_world(scenario, Path(scratch), models_dir, core=server_core) as world:

                def probe(rate_per_s: float, seed: int = seed) -> Probe:
                    trace = draw_trace(scenario.changed(rate_per_s=rate_per_s, seed=seed))
                    folder = Path(scratch) / "run"
                    session = run_session(world, trace, slos, folder, duration_s=probe_seconds, core=generator_core)
                    broken = broken_by(session)
                    click.echo(f"{rate_per_s:.3g} per s: {'; '.join(broken) or 'held'}")
                    return Probe(rate_per_s=rate_per_s, broken=broken)

                click.echo("warming up")
                probe(start, seed=WARM_UP_SEED)
                capacity, probes = find_capacity(probe, start_per_s=start)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    details = {"scenario": scenario.model_dump(), "seed": seed, "probes": [asdict(one) for one in probes]}
    write_capacity(capacity, {**details, "machine": machine()}, out)
    click.echo(f"capacity: {capacity:.3g} requests per second ({out})")
    sys.exit(0 if capacity else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped
    main()
