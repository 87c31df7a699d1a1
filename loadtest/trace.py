"""A trace: what is asked, and when, one JSON object per line. A run is given one, leaves it, and can replay one.

Only ``offset_s``, and of a text its two lengths, must be there, which public traces of LLM traffic have too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from loadtest.scenario import Part, ScenarioRejected, ServerName, problems

Form = Literal["native", "peft", "hostile", "move"]


class Row(Part):
    """``offset_s`` from the start of the run. ``seed``: prompts, and which file is uploaded, are drawn from it."""

    offset_s: float = Field(ge=0)
    seed: int = 0


class Asked(Row):
    """``adapters``: none is the base, several are blended with equal scales. ``hang_up_s``: when the client goes away,
    counted from its sending."""

    adapters: tuple[str, ...] = ()
    stream: bool = True
    hang_up_s: float | None = Field(default=None, gt=0)

    @property
    def scale(self) -> float:
        return round(1 / max(len(self.adapters), 1), 4)


class TextRow(Asked):
    kind: Literal["text"] = "text"
    prompt_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)


class ImageRow(Asked):
    kind: Literal["image"] = "image"
    num_steps: int = Field(ge=1)
    side: int = Field(default=64, ge=1)


class UploadRow(Row):
    """``name``: of a ``move`` the adapter that is moved, otherwise the one whose life it is."""

    kind: Literal["upload"] = "upload"
    form: Form
    server: ServerName = "text"
    name: str


AnyRow = TextRow | ImageRow | UploadRow
Trace = Sequence[AnyRow]
_ROW: TypeAdapter[AnyRow] = TypeAdapter(Annotated[AnyRow, Field(discriminator="kind")])


def read_trace(path: Path) -> list[AnyRow]:
    """In order of time; a row without a kind is a text. Raises ScenarioRejected naming the line."""
    rows: list[AnyRow] = []
    try:
        with path.open() as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_row(line, where=f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioRejected(f"{path}: cannot be read: {error}") from error
    return sorted(rows, key=lambda row: row.offset_s)


def write_trace(rows: Iterable[AnyRow], path: Path) -> None:
    with path.open("w") as file:
        for row in rows:
            file.write(row.model_dump_json(exclude_none=True) + "\n")


def _row(line: str, *, where: str) -> AnyRow:
    try:
        return _ROW.validate_python({"kind": "text"} | json.loads(line))
    except ValidationError as error:
        raise ScenarioRejected("; ".join(f"{where}: {problem}" for problem in problems(error))) from error
    except (ValueError, TypeError) as error:
        raise ScenarioRejected(f"{where}: expected a JSON object, got {line[:80]!r}") from error
