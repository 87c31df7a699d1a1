"""Shares of pictures, looked up by what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from examples.emoji.measure.cells import Cell, Share, wilson
from examples.emoji.measure.pictures import CONCEPT


class Figures:
    """Shares of the cells by what they say; None where a cell was not drawn."""

    def __init__(self, cells: Mapping[str, Mapping[str, Any]]) -> None:
        self._cells = cells

    def style(self, cell: Cell, style: str) -> Share | None:
        return self._share(cell, lambda row: row["style"].get(style, 0))

    def as_asked(self, cell: Cell, kind: str | None = None) -> Share | None:
        """Pictures of what the prompt says: on cat prompts, of the concept."""
        return self._share(cell, lambda row: row["as_asked"], kind)

    def both(self, cell: Cell, style: str, kind: str | None = None) -> Share | None:
        return self._share(cell, lambda row: row["as_asked_in_style"].get(style, 0), kind)

    def cats(self, cell: Cell) -> Share | None:
        return self._share(cell, lambda row: row["group"].get(CONCEPT, 0))

    def _share(self, cell: Cell, hits: Callable[[Mapping[str, Any]], int], kind: str | None = None) -> Share | None:
        row = self._cells.get(cell.name)
        if row is None:
            return None
        part = row if kind is None else row["by_kind"][kind]
        return wilson(hits(part), part["num"])


def fusion_label(fusion: str, every: int | None) -> str:
    return f"{fusion} {every}" if every else fusion
