"""What is drawn in a cell: twenty prompts for ten seeds each, of cat faces or of anything else."""

from __future__ import annotations

from dataclasses import dataclass

from examples.emoji.measure.painter import Wish
from examples.emoji.measure.pictures import CONCEPT

CAT_PROMPTS = {
    "learned": (  # captions of pictures that the concept adapter is trained on
        "grinning cat",
        "grinning cat with smiling eyes",
        "smiling cat with heart eyes",
        "cat with wry smile",
        "kissing cat",
        "weary cat",
        "crying cat",
        "cat face",
    ),
    "new": (  # of its two held-out pictures, and of none: expressions that the base knows of other faces
        "cat with tears of joy",
        "pouting cat",
        "angry cat face",
        "sleeping cat face",
        "winking cat face",
        "kissing cat face",
        "confused cat face",
        "smiling cat face with sunglasses",
        "smiling cat face with halo",
        "astonished cat face",
        "cat face with tongue",
        "nauseated cat face",
    ),
}
OTHER_PROMPTS = {
    "face": ("grinning face", "crying face", "smiling face with sunglasses", "angry face"),
    "animal": ("panda", "fish", "elephant", "frog", "penguin"),
    "food": ("red apple", "pizza", "banana", "birthday cake", "hamburger"),
    "place": ("rocket", "house", "automobile"),
    "other": ("red heart", "guitar", "crown"),
}
SEEDS_PER_PROMPT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """``group`` is what a picture of it should be told to be; ``kind``: learned, new, or the group."""

    text: str
    group: str
    kind: str


PROMPTS = {
    "cats": tuple(Prompt(text=text, group=CONCEPT, kind=kind) for kind, texts in CAT_PROMPTS.items() for text in texts),
    "others": tuple(
        Prompt(text=text, group=group, kind=group) for group, texts in OTHER_PROMPTS.items() for text in texts
    ),
}


def wishes(prompts: tuple[Prompt, ...], seeds_per_prompt: int) -> list[tuple[Prompt, Wish]]:
    """Every picture of a cell has a seed of its own, the same in every cell."""
    return [
        (prompt, (prompt.text, number * seeds_per_prompt + seed))
        for number, prompt in enumerate(prompts)
        for seed in range(seeds_per_prompt)
    ]
