"""Which cells there are, and the file that they are kept in: a line of JSON for each that has been drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from adapters_store.blend import FusionMethod
from examples.emoji.measure.adapters import CONCEPT_TASK, METHODS
from examples.emoji.measure.cells import Cell

STYLE_TASKS = ("ink", "noto")
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
TURNS, TURNS_STYLE = (1, 2, 3, 6), "noto"  # steps that an adapter has before it is the next one's turn


def grid(methods: Sequence[str] = METHODS, swept: Sequence[str] = SWEPT) -> list[Cell]:
    """What says most comes first."""
    swept = [method for method in swept if method in methods]
    cells = [Cell(prompts="cats"), Cell(prompts="others")]
    for style, method in product(STYLE_TASKS, methods):
        cells += _at_scale(method, style, 1.0) + _elsewhere(method, style)
    for style, method in product(STYLE_TASKS, methods):
        cells += [fused(method, style, fusion=fusion, every=every) for fusion, every in FUSIONS]
    cells += [turns(method, 1)[1] for method in methods]
    for style, method, scale in product(STYLE_TASKS, swept, SCALES):
        cells += _at_scale(method, style, scale)
    for method in swept:
        cells += _orders(method)
    return list(dict.fromkeys(cells))


def alone(method: str, task: str, scale: float = 1.0, *, prompts: str = "cats") -> Cell:
    return Cell(prompts=prompts, members=((f"{method}-{task}", scale),))


def fused(
    method: str,
    style: str,
    scale: float = 1.0,
    *,
    prompts: str = "cats",
    fusion: FusionMethod = "sum",
    every: int | None = None,
) -> Cell:
    members = ((f"{method}-{style}", scale), (f"{method}-{CONCEPT_TASK}", scale))
    return Cell(prompts=prompts, members=members, fusion=fusion, every=every)


def turns(method: str, every: int) -> tuple[Cell, Cell]:
    """Style first, and concept first."""
    cell = fused(method, TURNS_STYLE, fusion="switch", every=every)
    return cell, replace(cell, members=cell.members[::-1])


def read_cells(file: Path) -> dict[str, dict[str, Any]]:
    """By name; of a cell that is there twice the later one."""
    if not file.exists():
        return {}
    return {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}


def append(file: Path, row: dict[str, Any]) -> None:
    """One write, so that several processes can append to one file."""
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def _at_scale(method: str, style: str, scale: float) -> list[Cell]:
    return [
        fused(method, style, scale),
        alone(method, CONCEPT_TASK, scale),
        alone(method, style, scale, prompts="others"),
    ]


def _elsewhere(method: str, style: str) -> list[Cell]:
    """What adapters do to prompts that are not theirs."""
    return [
        alone(method, style),
        alone(method, CONCEPT_TASK, prompts="others"),
        fused(method, style, prompts="others"),
    ]


def _orders(method: str) -> Iterator[Cell]:
    for every in TURNS:
        yield from turns(method, every)
