"""The demo's second part: a base that draws, its adapters alone, fused and in turn, on one sheet."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from server.demo.process import DemoFailed, checked, example_files, push_examples, running_server, say
from server.demo.sheet import Sheet

PIPELINE = "model"  # the folder of the base, beside its adapters; stored in float16, which CPUs convolve slowly
PARAMETERS = {"num_inference_steps": 20, "guidance_scale": 4.0, "seed": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One blend for all prompts."""

    title: str
    adapters: tuple[str, ...] = ()
    fusion: Mapping[str, Any] = field(default_factory=lambda: {"method": "sum"})


def draw_pictures(folder: Path, models_dir: Path, sheet_path: Path) -> None:
    """Writes the sheet: a row for each blend, a column for each line of the folder's ``prompts.txt``. Raises
    DemoFailed when the base is not what it was afterwards."""
    prompts = (folder / "prompts.txt").read_text().splitlines()
    with running_server(str(folder / PIPELINE), models_dir, "--dtype", "float32") as client:
        names = push_examples(client, example_files(folder))
        rows = rows_of(names)
        sheet = Sheet(columns=prompts, rows=[row.title for row in rows])
        for place, row in enumerate(rows):
            _draw_row(client, row, prompts, sheet, place)
        again = [_draw(client, rows[0], prompt)[0] for prompt in prompts]
        if [image.tobytes() for image in again] != [
            sheet.picture(0, column).tobytes() for column in range(len(prompts))
        ]:
            raise DemoFailed("the base drew something else after the switches")
        audit = client.post("/admin/verify").json()
        if not audit["ok"]:
            raise DemoFailed(f"the audit found the base changed: {audit}")
    sheet_path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(sheet_path)
    say("The base draws the same again, bit for bit; the audit finds it intact.")
    say(f"The pictures: {sheet_path}")


def rows_of(names: Sequence[str]) -> list[Row]:
    """The base, each adapter, and the first and last together: fused, in turn, and averaged."""
    pair = (names[0], names[-1])
    both = " + ".join(pair)
    return [
        Row(title="base"),
        *(Row(title=name, adapters=(name,)) for name in names),
        Row(title=both, adapters=pair),
        Row(title=f"{both}, switch", adapters=pair, fusion={"method": "switch", "every": 1}),
        Row(title=f"{both}, composite", adapters=pair, fusion={"method": "composite"}),
    ]


def _draw_row(client: httpx.Client, row: Row, prompts: Sequence[str], sheet: Sheet, place: int) -> None:
    receipts = []
    for column, prompt in enumerate(prompts):
        image, receipt = _draw(client, row, prompt)
        receipts.append(receipt)
        applied = tuple(adapter["name"] for adapter in receipt["adapters"])
        if applied != row.adapters:
            raise DemoFailed(f"asked for {row.adapters}, the receipt says {applied}")
        sheet.put(place, column, image)
    receipt = receipts[0]  # the others find the blend in the weights
    say(
        f"{row.title:<28} {receipt['fusion']:<10} switch {receipt['switch_ms']:.2f} ms"
        f" · total {receipt['total_ms']:.0f} ms · blend {receipt['blend_key'][:15]}…"
    )


def _draw(client: httpx.Client, row: Row, prompt: str) -> tuple[Image.Image, dict[str, Any]]:
    body = {"prompt": prompt, "adapter": list(row.adapters), "fusion": row.fusion, "parameters": PARAMETERS}
    answer = checked(client.post("/generate", json=body))
    png = base64.b64decode(answer["images"][0]["b64"])
    return Image.open(BytesIO(png)).convert("RGB"), answer["receipt"]
