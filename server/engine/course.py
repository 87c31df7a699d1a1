"""What a traced request goes through in the engine: marks while it is there, phases when it ends.

A step adds nothing: a request is told of its loads, its switches, its parks and its end alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from server.core.steps import Reused, SwitchReport
from server.core.tracing import Attribute, Moment, Phase, Shared
from server.engine.image_sequence import ImageSequence
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.blend import Blend

MAX_WAITS = 32  # a picture may switch before each of its steps


@dataclass(slots=True)
class Course:
    """``waits`` for loads and switches, at most so many; ``num_untold`` more. Engine thread only."""

    waits: list[Phase] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    num_untold: int = 0
    num_reused_tokens: int = 0

    def wait(self, phase: Phase) -> None:
        if len(self.waits) < MAX_WAITS:
            self.waits.append(phase)
        else:
            self.num_untold += 1


def note_switch(sequences: Iterable[Sequence], blend: Blend, report: SwitchReport, ended_s: float) -> None:
    """A switch that ``sequences`` waited for."""
    _share(sequences, switch_phase(blend, report, ended_s))


def note_load(sequences: Iterable[Sequence], load: Phase) -> None:
    """A load that ``sequences`` waited for, though some may have come in the middle of it."""
    _share(sequences, load)


def note_parked(sequence: Sequence, reason: str, now: float) -> None:
    if sequence.course is not None:
        sequence.course.moments.append(Moment(name="parked", at_s=now, attributes={"shira.reason": reason}))


def note_seated(sequence: Sequence, reused: Reused, now: float) -> None:
    """It starts, or goes on."""
    if sequence.course is None:
        return
    if sequence.started_s is None:
        sequence.course.num_reused_tokens = reused.num_tokens
    else:
        attributes = {"shira.reused_tokens": reused.num_tokens}
        sequence.course.moments.append(Moment(name="resumed", at_s=now, attributes=attributes))


def tell(sequence: Sequence, ended_s: float, error: Exception | None = None) -> None:
    """It has ended."""
    if sequence.course is not None:
        sequence.request.trace.add(*phases_of(sequence, sequence.course, ended_s, error))


def phases_of(sequence: Sequence, course: Course, ended_s: float, error: Exception | None = None) -> list[Phase]:
    """One after the other without a gap, from admission to the end; each has what was waited for within it."""
    phases = [_fill(phase, course) for phase in _bare_phases(sequence, course, ended_s)]
    attributes: dict[str, Attribute] = {}
    if course.num_untold:
        attributes["shira.untold_waits"] = course.num_untold
    if error is not None:
        attributes["error.type"] = type(error).__name__
    phases[-1] = replace(phases[-1], attributes={**phases[-1].attributes, **attributes})
    return phases


def switch_phase(blend: Blend, report: SwitchReport, ended_s: float) -> Phase:
    """The parts are laid out in the order in which they run; what a report does not time lies behind them."""
    at_s = started_s = ended_s - report.total_s
    parts = []
    for name, seconds in (("restore", report.restore_s), ("stage", report.stage_s), ("exchange", report.exchange_s)):
        if seconds:
            parts.append(Phase(name=name, started_s=at_s, ended_s=at_s + seconds))
            at_s += seconds
    return Phase(
        name="switch",
        started_s=started_s,
        ended_s=ended_s,
        attributes={"shira.blend.key": blend.key, "shira.switch.kind": report.kind, "shira.tier": report.tier},
        parts=tuple(parts),
    )


def _share(sequences: Iterable[Sequence], work: Phase) -> None:
    traced = [(sequence, sequence.course) for sequence in sequences if sequence.course is not None]
    if not traced:
        return
    shared = Shared(phase=work, served=tuple(sequence.request.trace for sequence, _ in traced))
    attributes = {**work.attributes, **{f"shira.{part.name}_ms": _ms(part) for part in work.parts}}
    for sequence, course in traced:
        started_s = max(work.started_s, _queued_s(sequence))
        if started_s < work.ended_s:
            course.wait(replace(work, started_s=started_s, attributes=attributes, parts=(), shared=shared))


def _ms(phase: Phase) -> float:
    return (phase.ended_s - phase.started_s) * 1e3


def _bare_phases(sequence: Sequence, course: Course, ended_s: float) -> list[Phase]:
    started_s, first_s = sequence.started_s, sequence.first_token_s
    if started_s is None:
        return [Phase(name="queue", started_s=_queued_s(sequence), ended_s=ended_s)]
    queue = Phase(name="queue", started_s=_queued_s(sequence), ended_s=started_s)
    if isinstance(sequence, ImageSequence):
        steps = {"shira.steps": sequence.num_steps, "shira.switch_ms": sequence.switch_s * 1e3}
        return [queue, Phase(name="denoise", started_s=started_s, ended_s=ended_s, attributes=steps)]
    prefill = Phase(
        name="prefill",
        started_s=started_s,
        ended_s=ended_s if first_s is None else first_s,
        attributes={
            "shira.steps": sequence.num_steps if first_s is None else sequence.num_prefill_steps,
            "shira.tokens": sequence.request.num_prompt_tokens,
            "shira.reused_tokens": course.num_reused_tokens,
        },
    )
    if first_s is None or first_s == ended_s:
        return [queue, prefill]
    num_steps = sequence.num_steps - sequence.num_prefill_steps
    attributes = {"shira.steps": num_steps, "shira.tokens": sequence.num_tokens - 1}
    return [queue, prefill, Phase(name="decode", started_s=first_s, ended_s=ended_s, attributes=attributes)]


def _fill(phase: Phase, course: Course) -> Phase:
    """With the waits that end in it and the moments that lie in it."""
    waits = tuple(wait for wait in course.waits if phase.started_s < wait.ended_s <= phase.ended_s)
    moments = tuple(moment for moment in course.moments if phase.started_s < moment.at_s <= phase.ended_s)
    return replace(phase, parts=waits, moments=moments)


def _queued_s(sequence: Sequence) -> float:
    return max(sequence.request.arrived_s, sequence.request.admitted_s)
