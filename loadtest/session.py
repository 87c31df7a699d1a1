"""One run over servers that are up: the trace is asked by Locust, the servers are watched, and all of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.comparing import Comparison, compare
from loadtest.failures import noted
from loadtest.figures import figures_of
from loadtest.ledger import lost_rows
from loadtest.locust_process import LocustFailed, run_locust
from loadtest.outcomes import Outcome, read_outcomes
from loadtest.run_files import OUTCOMES, START, STOCK, TRACE
from loadtest.samples import Sample
from loadtest.sampling import sampled
from loadtest.servers import World
from loadtest.slo import Slo, Verdict, judge
from loadtest.trace import Trace, write_trace

SAMPLES_PER_RUN = 720


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What came of a run. ``audits``: of each server, whether its base is intact. ``failures``: what failed beside the
    requests."""

    trace: Trace
    duration_s: float
    outcomes: list[Outcome]
    samples: list[Sample]
    audits: Mapping[str, bool]
    figures: Mapping[str, float]
    verdicts: list[Verdict]
    comparisons: list[Comparison]
    failures: list[str]

    @property
    def is_held(self) -> bool:
        return not self.failures and all(verdict.is_met for verdict in self.verdicts)


def run_session(
    world: World, trace: Trace, slos: tuple[Slo, ...], folder: Path, *, duration_s: float, core: int | None = None
) -> Session:
    """``core``: the generator runs on that one alone. Raises ServerFailed and LocustFailed where nothing was asked;
    later failures are noted."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / START).unlink(missing_ok=True)  # of the run before
    write_trace(trace, folder / TRACE)
    world.stock.save(folder / STOCK)
    before, failures = _text_metrics(world), list[str]()
    every_s = max(duration_s / SAMPLES_PER_RUN, 1.0)
    with sampled(world.servers, failures, every_s=every_s) as watched, noted(failures):
        run_locust(folder, duration_s=duration_s, core=core)
    after = before
    with noted(failures):
        after = _text_metrics(world)
    audits: dict[str, bool] = dict.fromkeys(world.servers, False)
    for name, server in world.servers.items():
        with noted(failures):
            server.check_base()
            audits[name] = True
    if not (folder / START).exists():
        raise LocustFailed("; ".join(failures))
    outcomes = read_outcomes(folder / OUTCOMES)
    outcomes += lost_rows(trace, outcomes)
    start_s = float((folder / START).read_text())
    samples = [replace(sample, at_s=sample.at_s - start_s) for sample in watched]
    comparisons = compare(outcomes, before, after)
    figures = figures_of(outcomes, samples, audits, comparisons, duration_s=duration_s)
    return Session(
        trace=trace,
        duration_s=duration_s,
        outcomes=outcomes,
        samples=samples,
        audits=audits,
        figures=figures,
        verdicts=judge(slos, figures),
        comparisons=comparisons,
        failures=failures,
    )


def _text_metrics(world: World) -> str:
    """Raises ServerFailed."""
    return world.servers["text"].metrics() if "text" in world.servers else ""
