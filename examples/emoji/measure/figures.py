"""Shares of pictures, looked up by what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapters_store.blend import FusionMethod
from examples.emoji.measure.adapters import FOLDERS
from examples.emoji.measure.cells import Cell, Share, wilson
from examples.emoji.measure.pictures import CONCEPT

STYLE = FOLDERS["style"]


class Figures:
    """Shares of the cells by what they say; None where a cell was not drawn."""

    def __init__(self, cells: Mapping[str, Mapping[str, Any]]) -> None:
        self._cells = cells

    def style(self, cell: Cell) -> Share | None:
        return self._share(cell, lambda row: row["style"].get(STYLE, 0))

    def as_asked(self, cell: Cell) -> Share | None:
        """Pictures of what the prompt says: on cat prompts, of the concept."""
        return self._share(cell, lambda row: row["as_asked"])

    def both(self, cell: Cell, kind: str | None = None) -> Share | None:
        return self._share(cell, lambda row: row["as_asked_in_style"].get(STYLE, 0), kind)

    def cats(self, cell: Cell) -> Share | None:
        return self._share(cell, lambda row: row["group"].get(CONCEPT, 0))

    def _share(self, cell: Cell, hits: Callable[[Mapping[str, Any]], int], kind: str | None = None) -> Share | None:
        row = self._cells.get(cell.name)
        if row is None:
            return None
        part = row if kind is None else row["by_kind"][kind]
        return wilson(hits(part), part["num"])


def alone(method: str, task: str, scale: float = 1.0, *, prompts: str = "cats") -> Cell:
    return Cell(prompts=prompts, members=((f"{method}-{task}", scale),))


def fused(
    method: str, scale: float = 1.0, *, prompts: str = "cats", fusion: FusionMethod = "sum", every: int | None = None
) -> Cell:
    members = ((f"{method}-style", scale), (f"{method}-concept", scale))
    return Cell(prompts=prompts, members=members, fusion=fusion, every=every)


def fusion_label(fusion: str, every: int | None) -> str:
    return f"{fusion} {every}" if every else fusion
