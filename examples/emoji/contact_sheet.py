"""Draws the contact sheet: a row for the base, each adapter and pairs of them, a column for each prompt.

    python examples/emoji/contact_sheet.py examples/emoji/sheet.png

Blends are sums in the weights. Column i is drawn from seed i in every row.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoPipelineForText2Image
from evaluate import drawn
from torch import nn

from adapters_store.base import describe_checkpoint
from adapters_store.format.native import read_adapter
from adapters_store.tools.applied import applied
from server.demo.sheet import Sheet

FOLDER = Path(__file__).parent
ROWS: list[tuple[str, ...]] = [(), ("noto",), ("ink",), ("cat",), ("noto", "cat"), ("ink", "cat")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the adapters and prompts.txt")
    parser.add_argument("--model", type=Path, default=FOLDER / "model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--scale", type=float, default=1.0, help="of each adapter")
    options = parser.parse_args()
    prompts = (options.folder / "prompts.txt").read_text().splitlines()
    pipeline = AutoPipelineForText2Image.from_pretrained(options.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    base = describe_checkpoint(options.model)
    adapters = {
        name: read_adapter(options.folder / f"{name}.safetensors", base=base).adapter for row in ROWS for name in row
    }
    weights = nn.ModuleDict({name: getattr(pipeline, name) for name in base.adaptable_components})
    sheet = Sheet(columns=prompts, rows=[" + ".join(row) or "base" for row in ROWS])
    for place, row in enumerate(ROWS):
        with applied(weights, [(adapters[name], options.scale) for name in row]):
            pictures = drawn(pipeline, prompts, options.steps, options.guidance_scale)
        for column, picture in enumerate(pictures):
            sheet.put(place, column, picture)
    sheet.save(options.output)


if __name__ == "__main__":
    main()
