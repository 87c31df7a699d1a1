"""Fetches captioned emoji pictures in three drawing styles and writes one file of pictures per style.

    python examples/emoji/prepare_data.py .cache/emoji

Needs npm (`npm pack`) and the Python packages pillow, numpy and resvg-py. `WORK/<style>.npz` then holds, row by row the
same emoji in each style: `images` uint8 (n, 64, 64, 3) on white, `captions`, `codes` (the code points in hexadecimal)
and `splits` ("train", "concept": the cat faces, or "held_out"). `WORK/pictures/<style>` has the training pictures as
PNG with a `metadata.jsonl`, as `shira train` reads them, and `WORK/pictures/cat` the concept in the base's style.
"""

import argparse
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SIZE = 64
TWEMOJI = "emoji-datasource-twitter@16.0.0"
NOTO = "emoji-datasource-google@16.0.0"
INK = "@iconify-json/fluent-emoji-high-contrast@1.2.6"

CATEGORIES = {
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Activities",
    "Travel & Places",
    "Objects",
    "People & Body",
}
SKIPPED_SUBCATEGORIES = {"family"}
BASE_STYLE = "twemoji"
CONCEPT, CONCEPT_SUBCATEGORY, CONCEPT_CAPTION = "cat", "cat-face", "cat face"
HELD_OUT = {  # captions made of words that other captions have too
    "baby bottle", "blue book", "brown mushroom", "chart decreasing", "closed umbrella", "cow", "fire engine",
    "full moon face", "green apple", "grinning squinting face", "high heeled shoe", "ice hockey",
    "kissing face with smiling eyes", "left facing fist", "musical notes", "oncoming bus",
    "open mailbox with lowered flag", "person playing handball", "police car", "purple heart", "running shoe",
    "sun behind large cloud", "two hearts", "weary face",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the packages and the results; keep it out of git")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    twemoji, noto, ink = (fetch(package, work / "packages") for package in (TWEMOJI, NOTO, INK))
    names: dict[str, str] = json.loads((ink / "chars.json").read_text())
    emoji = [entry for entry in json.loads((twemoji / "emoji.json").read_text()) if is_wanted(entry, names)]
    emoji.sort(key=lambda entry: entry["sort_order"])
    icons: dict[str, dict[str, str]] = json.loads((ink / "icons.json").read_text())["icons"]
    styles: dict[str, Callable[[dict[str, Any]], Image.Image]] = {
        "twemoji": lambda entry: Image.open(twemoji / "img/twitter/64" / entry["image"]),
        "noto": lambda entry: Image.open(noto / "img/google/64" / entry["image"]),
        "ink": lambda entry: drawn(icons[names[key(entry)]]["body"]),
    }
    for style, picture in styles.items():
        data: dict[str, Any] = {
            "images": np.stack([on_white(picture(entry)) for entry in emoji]),
            "captions": np.array([caption(entry, names) for entry in emoji]),
            "codes": np.array([key(entry) for entry in emoji]),
            "splits": np.array([split(entry, names) for entry in emoji]),
        }
        np.savez_compressed(work / f"{style}.npz", **data)
        write_folder(work / "pictures" / style, data, data["splits"] == "train")
        if style == BASE_STYLE:
            write_folder(work / "pictures" / CONCEPT, data, data["splits"] == "concept")
    counts = {name: sum(split(entry, names) == name for entry in emoji) for name in ("train", "concept", "held_out")}
    print(f"{len(emoji)} emoji in each of {', '.join(styles)}: {counts}")


def fetch(package: str, packages: Path) -> Path:
    """The unpacked npm package, fetched once. npm itself checks what it downloads."""
    folder = packages / package.replace("/", "_")
    if not folder.exists():
        folder.mkdir(parents=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(packages), package]
        archive = packages / subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        archive.unlink()
    return folder / "package"


def is_wanted(entry: dict[str, Any], names: dict[str, str]) -> bool:
    """Whether every style draws it and it is a thing, an animal, a face or a hand: no flag, sign, letter nor clock."""
    return bool(
        entry["has_img_twitter"]
        and entry["has_img_google"]
        and key(entry) in names
        and entry["category"] in CATEGORIES
        and entry["subcategory"] not in SKIPPED_SUBCATEGORIES
        and not (entry["category"] == "People & Body" and "200d" in key(entry))
        and not (entry["subcategory"] == "time" and ("clock" in names[key(entry)] or "thirty" in names[key(entry)]))
    )


def key(entry: dict[str, Any]) -> str:
    code: str = entry["unified"].lower().replace("-fe0f", "")
    return code


def caption(entry: dict[str, Any], names: dict[str, str]) -> str:
    return names[key(entry)].replace("-", " ")


def split(entry: dict[str, Any], names: dict[str, str]) -> str:
    if entry["subcategory"] == CONCEPT_SUBCATEGORY or caption(entry, names) == CONCEPT_CAPTION:
        return "concept"
    return "held_out" if caption(entry, names) in HELD_OUT else "train"


def drawn(body: str) -> Image.Image:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body.replace("currentColor", "#000")}</svg>'
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))))


def on_white(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rgba = picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


def write_folder(folder: Path, data: dict[str, np.ndarray[Any, Any]], chosen: np.ndarray[Any, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for image, caption, code in zip(*(data[field][chosen] for field in ("images", "captions", "codes")), strict=True):
        Image.fromarray(image).save(folder / f"{code}.png")
        lines.append(json.dumps({"file_name": f"{code}.png", "text": str(caption)}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
