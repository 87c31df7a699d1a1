"""A base checkpoint and one fine-tuned from it, compared by name and read one weight of each at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from adapters_store.adapter import DTypeName
from adapters_store.base import BaseDescription
from adapters_store.errors import TrainingRefused
from adapters_store.tools.checkpoint import stored_weights

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
NAMES_SHOWN = 3


class CheckpointPair:
    """Both have the same weights, shapes and dtypes, or the constructor refuses with the first that differ.

    An output head that only one of them stores is left out where it is a copy of the input embedding, and so is one
    that both store where the base's config ties it: a tied weight is one weight, under the embedding's name."""

    def __init__(self, base_dir: Path, base: BaseDescription, finetuned_dir: Path, finetuned: BaseDescription) -> None:
        """Raises TrainingRefused, OSError."""
        self._dirs = (base_dir, finetuned_dir)
        self._dtypes = _names_by_dtype(base)
        copies = _tied_copies(self._dirs, (base, finetuned))
        names = base.weights.keys() - copies
        _check_names(names, finetuned.weights.keys() - copies)
        for name in sorted(names):
            for what in ("shape", "dtype"):
                expected, got = getattr(base.weights[name], what), getattr(finetuned.weights[name], what)
                if expected != got:
                    raise TrainingRefused("finetuned", expected=f"{what} {expected} of {name} as in the base", got=got)
        self._names = sorted(names, key=str.encode)
        self.numel = sum(
            torch.Size(base.weights[name].shape).numel() for name in self._names if name in self._dtypes
        )  # of what an adapter can touch

    def dtype(self, name: str) -> DTypeName:
        return self._dtypes[name]

    def weights(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, base, fine-tuned) of every weight an adapter can touch, in ascending byte order of name. Raises
        TrainingRefused where another kind of tensor differs."""
        for name in tqdm(self._names, desc="comparing", unit="weight", disable=not sys.stderr.isatty()):
            old, new = (_read(folder, name) for folder in self._dirs)
            if name in self._dtypes:
                yield name, old, new
            elif not torch.equal(old, new):
                raise TrainingRefused(
                    "finetuned", expected=f"{name} as in the base: {old.dtype} cannot be adapted", got="another"
                )


def _names_by_dtype(base: BaseDescription) -> dict[str, DTypeName]:
    found = {weight.name: weight.adaptable_dtype for weight in base.weights.values()}
    return {name: dtype for name, dtype in found.items() if dtype is not None}


def _tied_copies(dirs: tuple[Path, Path], described: tuple[BaseDescription, BaseDescription]) -> set[str]:
    """Heads that are nothing but their checkpoint's embedding, where that makes them no weight of their own."""
    copies = set()
    for head in HEADS:
        stored_by = [
            (folder, description)
            for folder, description in zip(dirs, described, strict=True)
            if head in description.weights
        ]
        ties = len(stored_by) == 1 or (len(stored_by) == 2 and _says_tied(dirs[0]))
        if ties and all(_is_copy(folder, description, head) for folder, description in stored_by):
            copies.add(head)
    return copies


def _says_tied(base_dir: Path) -> bool:
    try:
        return json.loads((base_dir / "config.json").read_bytes()).get("tie_word_embeddings") is True
    except (OSError, ValueError, AttributeError):
        return False


def _is_copy(folder: Path, description: BaseDescription, head: str) -> bool:
    embeddings = [name for name in description.weights if name.endswith(EMBEDDINGS)]
    return len(embeddings) == 1 and torch.equal(_read(folder, head), _read(folder, embeddings[0]))


def _check_names(base: set[str], finetuned: set[str]) -> None:
    for got, extra in (("without", base - finetuned), ("with", finetuned - base)):
        if extra:
            shown = ", ".join(sorted(extra)[:NAMES_SHOWN])
            raise TrainingRefused(
                "finetuned", expected="the weights of the base", got=f"a model {got} {shown} ({len(extra)} in all)"
            )


def _read(folder: Path, name: str) -> Tensor:
    return next(tensor for _, tensor in stored_weights(folder, [name]))
