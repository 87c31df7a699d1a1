"""The data of an evaluation: each file as far as the metrics need it, whole or only what training held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from adapters_store.adapter import Digest, sha256_digest
from adapters_store.errors import TrainingRefused
from adapters_store.tools.data import Examples, load_examples, load_pairs, split_held_out
from adapters_store.tools.evaluate_options import EvalOptions
from adapters_store.tools.exact_match import Question, questions
from adapters_store.tools.native_files import short_names

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalData:
    """``examples`` are for the perplexity, ``questions`` for exact match; None where it is not asked for."""

    name: str
    digest: Digest
    examples: Examples | None
    questions: list[Question] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSummary:
    """``num_tokens`` are those the perplexity is over, ``num_questions`` the prompts to be answered."""

    name: str
    digest: Digest
    held_out: float | None
    num_examples: int | None
    num_tokens: int | None
    num_questions: int | None


def load_data(options: EvalOptions, tokenizer: Any) -> list[EvalData]:
    """Raises TrainingRefused naming the file."""
    return [
        _load(name, path, options, tokenizer)
        for name, path in zip(short_names(options.data), options.data, strict=True)
    ]


def summary_of(data: EvalData, options: EvalOptions) -> DataSummary:
    return DataSummary(
        name=data.name,
        digest=data.digest,
        held_out=options.held_out,
        num_examples=None if data.examples is None else len(data.examples),
        num_tokens=None if data.examples is None else data.examples.num_predicted,
        num_questions=None if data.questions is None else len(data.questions),
    )


def _load(name: str, path: Path, options: EvalOptions, tokenizer: Any) -> EvalData:
    examples, asked = None, None
    try:
        if "perplexity" in options.metrics:
            examples = load_examples(path, tokenizer, sequence_length=options.sequence_length)
            if options.held_out is not None:
                _, examples = split_held_out(examples, options.held_out)
        if "exact-match" in options.metrics:
            asked = questions(load_pairs(path, tokenizer), tokenizer)
            if options.held_out is not None:
                asked = _held_out(asked, options.held_out)
    except TrainingRefused as error:
        raise TrainingRefused(f"{error.field} {name}", expected=error.expected, got=error.got) from error
    return EvalData(name=name, digest=sha256_digest(path.read_bytes()), examples=examples, questions=asked)


def _held_out(items: Sequence[T], share: float) -> list[T]:
    """Those at the places where training holds out examples."""
    numbers = torch.arange(len(items)).unsqueeze(1)
    _, held_out = split_held_out(Examples(numbers, numbers, Digest("")), share)
    return [items[number] for number in held_out.input_ids.flatten().tolist()]
