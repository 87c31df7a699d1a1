"""A text file as training data: tokenised once, cut into sequences of one length, some of them held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from adapters_store.adapter import Digest, sha256_digest
from adapters_store.errors import TrainingRefused

MAX_HELD_OUT_SEQUENCES = 64  # enough for a figure with two digits, cheap on a CPU


class Sequences(Dataset[dict[str, Tensor]]):
    """``tokens``, int64 (num_sequences, sequence_length); every token but the first of a sequence is predicted."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[row], "labels": self.tokens[row]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextData:
    digest: Digest  # of the file's bytes
    train: Sequences
    held_out: Sequences


def load_text(path: Path, tokenizer: Any, *, sequence_length: int, held_out: float) -> TextData:
    """Held-out sequences are spread evenly over the file; a last sequence that is not full is dropped.

    ``held_out`` is the share of sequences kept from training, at least one and at most ``MAX_HELD_OUT_SEQUENCES``.
    Raises TrainingRefused when the file cannot be read, is not UTF-8 or is too short for one sequence of each kind.
    """
    content, digest = _read(path)
    tokens = torch.tensor(tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.int64)
    num_sequences = tokens.numel() // sequence_length
    if num_sequences < 2:
        raise TrainingRefused(
            "text", expected=f"at least two sequences of {sequence_length} tokens", got=f"{tokens.numel()} tokens"
        )
    sequences = tokens[: num_sequences * sequence_length].view(num_sequences, sequence_length)
    num_held_out = min(max(1, round(held_out * num_sequences)), MAX_HELD_OUT_SEQUENCES, num_sequences - 1)
    is_held_out = torch.zeros(num_sequences, dtype=torch.bool)
    is_held_out[(torch.arange(num_held_out) * num_sequences + num_sequences // 2) // num_held_out] = True
    return TextData(digest=digest, train=Sequences(sequences[~is_held_out]), held_out=Sequences(sequences[is_held_out]))


def _read(path: Path) -> tuple[str, Digest]:
    try:
        raw = path.read_bytes()
        content = raw.decode()
    except OSError as error:
        raise TrainingRefused("text", expected="a readable file", got=f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingRefused("text", expected="UTF-8", got=f"{path}: byte {error.start} is not") from error
    if not content.strip():
        raise TrainingRefused("text", expected="some text", got=f"{path}: nothing but white space")
    return content, sha256_digest(raw)
