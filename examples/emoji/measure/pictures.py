"""The real pictures, with what is to be told of them: the style they are drawn in and the group of the emoji."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STYLES = ("twemoji", "noto", "ink")
NEITHER = "neither"  # what a classifier may say of a picture that is in no style: grey, half way, or no picture at all
GROUPS = ("cat face", "face", "animal", "food", "place", "person", "other")
CONCEPT = "cat face"
EMOJI_LIST = Path("packages/emoji-datasource-twitter@16.0.0/package/emoji.json")
CATEGORY_GROUPS = {"Food & Drink": "food", "Travel & Places": "place", "People & Body": "person"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """``images`` uint8 (n, 3, height, width); ``styles``, ``groups``: places in STYLES and GROUPS; ``emoji``: which
    emoji it is, the same number in every style."""

    images: Tensor
    styles: Tensor
    groups: Tensor
    emoji: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Pictures:
        return Pictures(
            images=self.images[rows], styles=self.styles[rows], groups=self.groups[rows], emoji=self.emoji[rows]
        )


def read_pictures(work: Path) -> Pictures:
    """All styles of what ``prepare_data.py`` wrote."""
    parts = [_read_style(work, number) for number in range(len(STYLES))]
    images, styles, groups, emoji = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Pictures(images=images, styles=styles, groups=groups, emoji=emoji)


def group_of(caption_split: str, entry: dict[str, Any]) -> str:
    """Of an emoji in ``emoji.json``. Faces of animals are animals; the concept's are a group of their own."""
    category, subcategory = entry["category"], entry["subcategory"]
    if caption_split == "concept":
        return CONCEPT
    if category == "Smileys & Emotion" and subcategory.startswith("face-"):
        return "face"
    if subcategory.startswith("animal-") or subcategory == "monkey-face":
        return "animal"
    return CATEGORY_GROUPS.get(category, "other")


def _read_style(work: Path, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entries = {
        entry["unified"].lower().replace("-fe0f", ""): entry for entry in json.loads((work / EMOJI_LIST).read_text())
    }
    with np.load(work / f"{STYLES[number]}.npz") as data:
        images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
        names = [
            group_of(split, entries[code]) for split, code in zip(data["splits"], data["codes"].tolist(), strict=True)
        ]
    groups = torch.tensor([GROUPS.index(name) for name in names])
    return images, torch.full_like(groups, number), groups, torch.arange(len(groups))
