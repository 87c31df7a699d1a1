"""How each request ended, one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Action = Literal["text", "image", "upload", "hostile", "download", "move", "delete"]
Ending = Literal["answered", "refused", "wrong", "lost", "left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``answered``: as asked for. ``refused``: 429, 503 or 504 in the documented shape. ``wrong``: any other answer.
    ``lost``: no answer, one that breaks off, or that of an engine that died. ``left``: the client itself went away, as
    planned.

    Seconds: ``due_s`` and ``sent_s`` from the start of the run, the others from the sending. ``due_s`` is the offset of
    a row of the trace, None of what follows the first request of a row. ``detail`` says what is wrong, or a code.
    ``token_s``: mean time between the tokens of a stream after the first."""

    action: Action
    ending: Ending
    due_s: float | None
    sent_s: float
    total_s: float
    detail: str = ""
    first_text_s: float | None = None
    token_s: float | None = None
    num_tokens: int = 0
    switch_ms: float | None = None
    queue_ms: float | None = None
    mode: str | None = None

    @property
    def late_s(self) -> float:
        return 0.0 if self.due_s is None else self.sent_s - self.due_s

    @property
    def ended_s(self) -> float:
        return self.sent_s + self.total_s


def write_outcomes(outcomes: Iterable[Outcome], path: Path) -> None:
    path.write_text("".join(to_line(outcome) for outcome in outcomes))


def read_outcomes(path: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def to_line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), separators=(",", ":")) + "\n"
