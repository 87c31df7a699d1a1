"""Which cells there are, and the file that they are kept in: a line of JSON for each that has been drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adapters_store.blend import FusionMethod
from examples.emoji.measure.adapters import METHODS
from examples.emoji.measure.cells import Cell

SCALES = (0.25, 0.5, 0.75, 1.25, 1.5)
SWEPT = ("lora", "rand")  # whose scale is swept, and whose fusions are all drawn
FUSIONS: tuple[tuple[FusionMethod, int | None], ...] = (
    ("mean", None),
    ("ties", None),
    ("ram", None),
    ("switch", 1),
    ("switch", 2),
    ("composite", None),
)
TURNS = (1, 2, 3, 6)


def grid(methods: Sequence[str] = METHODS, swept: Sequence[str] = SWEPT) -> list[Cell]:
    """What says most comes first."""
    cells = [Cell(prompts="cats"), Cell(prompts="others")]
    for method in methods:
        cells += _at_scale(method, 1.0) + _elsewhere(method)
    for method in methods:
        cells += [_fused(method, 1.0, fusion=fusion, every=every) for fusion, every in FUSIONS]
    for method in swept:
        for scale in SCALES:
            cells += _at_scale(method, scale)
        cells += list(_orders(method))
    return list(dict.fromkeys(cells))


def read_cells(file: Path) -> dict[str, dict[str, Any]]:
    """By name; of a cell that is there twice the later one."""
    if not file.exists():
        return {}
    return {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}


def append(file: Path, row: dict[str, Any]) -> None:
    """One write, so that several processes can append to one file."""
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def _at_scale(method: str, scale: float) -> list[Cell]:
    style, concept = (f"{method}-style", scale), (f"{method}-concept", scale)
    return [
        _fused(method, scale),
        Cell(prompts="cats", members=(concept,)),
        Cell(prompts="others", members=(style,)),
    ]


def _elsewhere(method: str) -> list[Cell]:
    """What adapters do to prompts that are not theirs."""
    return [
        Cell(prompts="cats", members=((f"{method}-style", 1.0),)),
        Cell(prompts="others", members=((f"{method}-concept", 1.0),)),
        _fused(method, 1.0, prompts="others"),
    ]


def _fused(
    method: str, scale: float, *, prompts: str = "cats", fusion: FusionMethod = "sum", every: int | None = None
) -> Cell:
    members = ((f"{method}-style", scale), (f"{method}-concept", scale))
    return Cell(prompts=prompts, members=members, fusion=fusion, every=every)


def _orders(method: str) -> Iterator[Cell]:
    """Turns of several lengths, style first and concept first."""
    for every in TURNS:
        cell = _fused(method, 1.0, fusion="switch", every=every)
        yield cell
        yield Cell(prompts="cats", members=cell.members[::-1], fusion="switch", every=every)
