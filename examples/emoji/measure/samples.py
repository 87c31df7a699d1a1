"""A sheet of drawn pictures: a row per blend, the same prompts and seeds in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from adapters_store.adapter import Version
from examples.emoji.measure.adapters import CONCEPT_TASK
from examples.emoji.measure.cells import Cell
from examples.emoji.measure.grid import STYLE_TASKS, alone, fused
from examples.emoji.measure.painter import Painter
from examples.emoji.measure.prompts import CAT_PROMPTS, OTHER_PROMPTS

SHOWN = (*CAT_PROMPTS["learned"][:3], *CAT_PROMPTS["new"][1:8:2], *(texts[0] for texts in OTHER_PROMPTS.values()))
LABEL_WIDTH = 190
SHRUNK = 48  # pixels a side


def write_samples(painter: Painter, versions: Mapping[str, Version], methods: Sequence[str], file: Path) -> None:
    """Picture i of each row has seed i."""
    cells = [Cell(prompts="cats")]
    for method in methods:
        cells.append(alone(method, CONCEPT_TASK))
        for style in STYLE_TASKS:
            cells += [alone(method, style), fused(method, style)]
            cells += [fused(method, style, fusion="switch", every=1), fused(method, style, fusion="composite")]
    sheet = Image.new("RGB", (LABEL_WIDTH + SHRUNK * len(SHOWN), SHRUNK * len(cells)), "white")
    text = ImageDraw.Draw(sheet)
    for row, cell in enumerate(cells):
        images = painter.draw(cell.blend(versions), [(prompt, seed) for seed, prompt in enumerate(SHOWN)])
        text.text((2, row * SHRUNK + SHRUNK // 2 - 6), cell.name.removeprefix("cats: ").replace("1 ", ""), fill="black")
        for column, image in enumerate(images):
            drawn = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((SHRUNK, SHRUNK))
            sheet.paste(drawn, (LABEL_WIDTH + column * SHRUNK, row * SHRUNK))
    sheet.quantize(128).save(file)  # a palette: a third of the bytes
