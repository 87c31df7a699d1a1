"""The cells as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from adapters_store.tools.reproduction.cells import Cell


def render(cells: Mapping[str, Cell]) -> str:
    return "\n".join(cells) + "\n"
