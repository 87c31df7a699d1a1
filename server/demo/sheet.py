"""Pictures in rows and columns on one sheet, with their titles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LABEL, HEADER = 96, 8, 190, 44  # pixels
LETTER = 7  # of a line, wide
BACKGROUND, INK = "white", "#222222"


class Sheet:
    def __init__(self, *, columns: Sequence[str], rows: Sequence[str]) -> None:
        self._columns = columns
        self._rows = rows
        self._pictures: dict[tuple[int, int], Image.Image] = {}

    def put(self, row: int, column: int, picture: Image.Image) -> None:
        self._pictures[row, column] = picture

    def picture(self, row: int, column: int) -> Image.Image:
        return self._pictures[row, column]

    def save(self, path: Path) -> None:
        step = CELL + GAP
        sheet = Image.new("RGB", (LABEL + step * len(self._columns), HEADER + step * len(self._rows)), BACKGROUND)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
        for column, title in enumerate(self._columns):
            text = textwrap.fill(title, CELL // LETTER)
            pen.text((LABEL + column * step, HEADER - GAP), text, fill=INK, font=font, anchor="ld")
        for row, title in enumerate(self._rows):
            text = textwrap.fill(title, LABEL // LETTER)
            pen.text((GAP, HEADER + row * step + CELL // 2), text, fill=INK, font=font, anchor="lm")
        for (row, column), picture in self._pictures.items():
            scaled = picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (LABEL + column * step, HEADER + row * step))
        sheet.save(path, optimize=True)
