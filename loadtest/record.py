"""What is kept of a run: one JSON object with every figure and all that a figure depends on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from adapters_store.tools.bench_report import machine
from loadtest.comparing import Comparison
from loadtest.figures import figures_of
from loadtest.memory import Growth, growth_of
from loadtest.outcomes import Outcome
from loadtest.samples import Sample
from loadtest.scenario import Scenario
from loadtest.session import Session
from loadtest.slo import Slo, Verdict, judge

LIBRARIES = ("shira-server", "locust", "torch", "transformers", "diffusers", "fastapi", "uvicorn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """``duration_s``: in which requests were due. ``problems``: the first details of what went wrong or was
    refused. ``failures``: what failed beside the requests. ``replayed``: the trace, where it was given."""

    scenario: Mapping[str, Any]
    command: str
    ended_at: str
    duration_s: float
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: Mapping[str, float]
    memory: Mapping[str, Growth]
    audits: Mapping[str, bool]
    verdicts: Sequence[Verdict]
    comparisons: Sequence[Comparison]
    problems: Sequence[str]
    failures: Sequence[str] = ()
    replayed: str | None = None

    def save(self, path: Path) -> None:
        told = asdict(self) | {"verdicts": [_verdict_json(verdict) for verdict in self.verdicts]}
        path.write_text(json.dumps(told, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        told = json.loads(path.read_text())
        told["memory"] = {name: Growth(**growth) for name, growth in told["memory"].items()}
        told["comparisons"] = [Comparison(**one) for one in told["comparisons"]]
        told["verdicts"] = [Verdict(slo=Slo(**one["slo"]), value=one["value"]) for one in told["verdicts"]]
        return cls(**told)


def record_of(session: Session, scenario: Scenario, argv: Sequence[str], *, replayed: str | None = None) -> Record:
    return Record(
        scenario=scenario.model_dump(),
        command=shlex.join(["python", "-m", "loadtest.run", *argv[1:]]),
        ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=session.duration_s,
        machine=machine(),
        versions={library: version(library) for library in LIBRARIES},
        figures=session.figures,
        memory=growth_of(session.samples, session.audits, duration_s=session.duration_s),
        audits=session.audits,
        verdicts=session.verdicts,
        comparisons=session.comparisons,
        problems=_problems(session.outcomes),
        failures=session.failures,
        replayed=replayed,
    )


def judged_anew(
    record: Record, outcomes: Sequence[Outcome], samples: Sequence[Sample], slos: Sequence[Slo] | None
) -> Record:
    """With the figures as they are taken now. ``slos`` None: those it was judged by."""
    comparisons = [one for one in record.comparisons if one.is_known]
    figures = figures_of(outcomes, samples, record.audits, comparisons, duration_s=record.duration_s)
    return replace(
        record,
        figures=figures,
        memory=growth_of(samples, record.audits, duration_s=record.duration_s),
        verdicts=judge([verdict.slo for verdict in record.verdicts] if slos is None else slos, figures),
        comparisons=comparisons,
        problems=_problems(outcomes),
    )


def _problems(outcomes: Sequence[Outcome], most: int = 20) -> list[str]:
    """Wrong and lost ones first."""
    told = [one for one in outcomes if one.ending in ("wrong", "lost", "refused")]
    told.sort(key=lambda one: (one.ending == "refused", one.sent_s))
    return [f"{one.sent_s:.1f} s: {one.action} {one.ending}: {one.detail}" for one in told[:most]]


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {"slo": verdict.slo.model_dump(), "value": verdict.value, "is_met": verdict.is_met}
