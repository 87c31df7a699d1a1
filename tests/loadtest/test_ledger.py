from __future__ import annotations

from loadtest.ledger import lost_rows
from loadtest.outcomes import Action, Outcome
from loadtest.trace import AnyRow, Form, ImageRow, TextRow, UploadRow

TRACE: list[AnyRow] = [
    TextRow(offset_s=1, prompt_tokens=1, output_tokens=1),
    TextRow(offset_s=1, prompt_tokens=2, output_tokens=2),
    ImageRow(offset_s=1, num_steps=1),
    *(UploadRow(offset_s=at_s, form=form, name="a") for at_s, form in enumerate[Form](("native", "peft", "hostile"))),
    UploadRow(offset_s=3, form="move", name="a"),
]
ACTIONS: tuple[Action, ...] = ("text", "text", "image", "upload", "upload", "hostile", "move")


def outcome(action: Action, due_s: float | None) -> Outcome:
    return Outcome(action=action, ending="answered", due_s=due_s, sent_s=1.5, total_s=0.1)


def test_a_trace_whose_rows_all_have_an_outcome_lost_nothing() -> None:
    told = [outcome(action, row.offset_s) for action, row in zip(ACTIONS, TRACE, strict=True)]
    assert lost_rows(TRACE, [*told, outcome("text", None)]) == []


def test_every_row_without_an_outcome_is_lost_also_beside_another_of_its_time() -> None:
    told = [outcome("text", 1), outcome("image", 1), outcome("text", None), outcome("upload", 0)]
    lost = lost_rows(TRACE, told)
    assert [(one.action, one.due_s) for one in lost] == [("text", 1), ("upload", 1), ("hostile", 2), ("move", 3)]
    assert {one.ending for one in lost} == {"lost"}
