"""Measures and shows an emoji model: its loss on held-out and training captions, and a sheet of pictures.

    python examples/emoji/evaluate.py examples/emoji/model --work .cache/emoji --sheet sheet.png

The sheet has a row per eight prompts; picture i is drawn from seed i. Without `--work` there is no loss.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from model_parts import encoded, fixed_loss
from PIL import Image, ImageDraw
from torch import nn

PROMPTS = [
    "red apple", "pizza", "banana", "hamburger", "birthday cake", "strawberry", "ice cream", "carrot",
    "grinning face", "crying face", "smiling face with sunglasses", "angry face", "robot", "ghost", "skull", "alien",
    "dog face", "panda", "penguin", "fish", "butterfly", "elephant", "fox", "frog",
    "red heart", "rocket", "house", "sunflower", "guitar", "soccer ball", "umbrella", "crown",
    # never seen in training:
    "green apple", "purple heart", "weary face", "brown mushroom", "blue apple", "grinning cat",
    "panda with sunglasses", "crying pizza",
]  # fmt: skip
COLUMNS, CELL, TEXT_HEIGHT = 8, 128, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, help="folder of the training data")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    options = parser.parse_args()
    pipeline = AutoPipelineForText2Image.from_pretrained(options.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if options.work:
        model = nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
        for split in ("train", "held_out"):
            examples = encoded(options.work, split, pipeline.vae)
            print(f"{split} loss: {fixed_loss(model, pipeline.scheduler, pipeline.tokenizer, *examples)}")
    if options.sheet:
        start = time.monotonic()
        pictures = drawn(pipeline, options.prompts, options.steps, options.guidance_scale)
        print(f"{len(pictures)} pictures in {time.monotonic() - start:.1f} s")
        sheet(pictures, options.prompts).save(options.sheet)


@torch.inference_mode()
def drawn(pipeline: DiffusionPipeline, prompts: list[str], steps: int, guidance_scale: float) -> list[Image.Image]:
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    pictures: list[Image.Image] = pipeline(
        prompts, num_inference_steps=steps, guidance_scale=guidance_scale, generator=generators
    ).images
    return pictures


def sheet(pictures: list[Image.Image], prompts: list[str]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + TEXT_HEIGHT)), "white")
    draw = ImageDraw.Draw(whole)
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        left, top = index % COLUMNS * CELL, index // COLUMNS * (CELL + TEXT_HEIGHT)
        whole.paste(picture.resize((CELL - 8, CELL - 8), Image.Resampling.LANCZOS), (left + 4, top + 4))
        draw.text((left + 4, top + CELL - 2), prompt[:21], fill="black")
    return whole


if __name__ == "__main__":
    main()
