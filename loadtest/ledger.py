"""Every row of a trace ends in an outcome: one that has none, whatever became of it, is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from loadtest.outcomes import Action, Outcome
from loadtest.trace import AnyRow, Form, Trace, UploadRow

FIRST_ACTIONS: Mapping[Form, Action] = {"native": "upload", "peft": "upload", "hostile": "hostile", "move": "move"}


def lost_rows(trace: Trace, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Of the rows without one."""
    told = Counter((one.action, one.due_s) for one in outcomes if one.due_s is not None)
    missing = Counter((_first_action(row), row.offset_s) for row in trace) - told
    return [
        Outcome(action=action, ending="lost", due_s=due_s, sent_s=due_s, total_s=0.0, detail="no outcome")
        for action, due_s in missing.elements()
    ]


def _first_action(row: AnyRow) -> Action:
    return FIRST_ACTIONS[row.form] if isinstance(row, UploadRow) else row.kind
