"""``make loadtest``: servers, adapters, Locust, figures, objectives, report. Exits with 1 if an objective is broken."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from loadtest.capacity_file import read_capacity
from loadtest.drawing import draw_trace
from loadtest.outcomes import write_outcomes
from loadtest.record import record_of
from loadtest.report import write_report
from loadtest.run_files import OUTCOMES, RECORD, SAMPLES, TRACE
from loadtest.samples import write_samples
from loadtest.scenario import Scenario, ScenarioRejected, load_scenario
from loadtest.servers import running_world
from loadtest.session import Session, run_session
from loadtest.slo import load_slos
from loadtest.trace import Trace, read_trace, write_trace
from server.core.config import load_config
from server.core.errors import ServerError

HERE = Path(__file__).parent
SCENARIO, SLOS = HERE / "scenarios" / "two_minutes.toml", HERE / "slo" / "default.toml"
OUT = HERE.parent / ".cache" / "loadtest"
RUN = "run"  # the folder of the run itself, beside those of the servers


@click.command(context_settings={"max_content_width": 120})
@click.argument("scenario_file", metavar="[SCENARIO]", type=click.Path(path_type=Path), default=SCENARIO)
@click.option("--slo", "slo_file", type=click.Path(path_type=Path), default=SLOS, help="Objectives, TOML.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="Folder of the report.", show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Mean arrivals per second.")
@click.option("--rate-share", type=click.FloatRange(min=0, min_open=True), help="Of the capacity found before.")
@click.option("--capacity", "capacity_file", type=click.Path(path_type=Path), default=OUT / "capacity.json")
@click.option("--duration", type=click.FloatRange(min=1), help="Seconds.")
@click.option("--seed", type=int)
@click.option("--trace", "trace_file", type=click.Path(path_type=Path), help="Ask this instead of drawing a trace.")
@click.option("--server-core", type=int, help="Both servers run on this core alone.")
@click.option("--generator-core", type=int, help="Locust runs on this core alone.")
def main(  # noqa: PLR0917 - click passes them by name
    scenario_file: Path,
    slo_file: Path,
    out: Path,
    rate: float | None,
    rate_share: float | None,
    capacity_file: Path,
    duration: float | None,
    seed: int | None,
    trace_file: Path | None,
    server_core: int | None,
    generator_core: int | None,
) -> None:
    """Runs SCENARIO (by default the two-minute one) against servers it starts, and reports."""
    try:
        if rate_share is not None:
            rate = rate_share * read_capacity(capacity_file)
        scenario = load_scenario(scenario_file).changed(rate_per_s=rate, duration_s=duration, seed=seed)
        slos = load_slos(slo_file)
        if trace_file is None:
            trace = draw_trace(scenario)
        else:
            trace = read_trace(trace_file)
            scenario = as_replayed(scenario, trace, duration_s=duration)
        with _scratch(out) as scratch:
            models_dir = load_config({}, os.environ).models_path
            click.echo(f"{scenario.name}: {len(trace)} requests in {scenario.duration_s:g} s; starting servers")
            with running_world(scenario, scratch, models_dir, core=server_core) as world:
                click.echo("servers are ready, adapters uploaded; asking")
                duration_s, folder = scenario.duration_s, scratch / RUN
                session = run_session(world, trace, slos, folder, duration_s=duration_s, core=generator_core)
        keep(session, scenario, out, replayed=None if trace_file is None else str(trace_file))
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    for told in (*session.verdicts, *session.failures):
        click.echo(str(told))
    click.echo(f"report: {out}/report.html")
    sys.exit(0 if session.is_held else 1)


def as_replayed(scenario: Scenario, trace: Trace, *, duration_s: float | None) -> Scenario:
    """As long as the trace, unless ``duration_s`` is longer, at the trace's own mean rate. Raises ScenarioRejected."""
    if not trace:
        raise ScenarioRejected("trace: expected one request or more, got none")
    whole_s = max(trace[-1].offset_s, duration_s or 1.0)
    return scenario.changed(duration_s=whole_s, rate_per_s=len(trace) / whole_s)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder that goes; its logs, and the outcomes there are, stay in ``out`` however it ends."""
    with tempfile.TemporaryDirectory(prefix="shira-load-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            out.mkdir(parents=True, exist_ok=True)
            for file in (*folder.glob("*.log"), *folder.glob(f"{RUN}/*.log"), *folder.glob(f"{RUN}/{OUTCOMES}")):
                shutil.copy(file, out)


def keep(session: Session, scenario: Scenario, out: Path, *, replayed: str | None) -> None:
    """The run's own files, and its report."""
    write_trace(session.trace, out / TRACE)
    write_outcomes(session.outcomes, out / OUTCOMES)
    write_samples(session.samples, out / SAMPLES)
    record_of(session, scenario, sys.argv, replayed=replayed).save(out / RECORD)
    write_report(out)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped
    main()
