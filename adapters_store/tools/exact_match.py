"""How many prompts a model answers, greedily, with the very completion that was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.errors import TrainingRefused
from adapters_store.tools.data import Pair, prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``prompt`` in tokens, tokenised as training does it; ``answer`` in text, white space at its ends cut off;
    ``answer_tokens`` is how long the completion is."""

    prompt: tuple[int, ...]
    answer: str
    answer_tokens: int


def questions(pairs: Sequence[Pair], tokenizer: Any) -> list[Question]:
    """Raises TrainingRefused for a prompt or a completion of nothing."""
    asked = []
    for number, pair in enumerate(pairs, start=1):
        prompt = prompt_tokens(tokenizer, pair.prompt)
        completion = tokenizer(pair.completion, add_special_tokens=False, verbose=False)["input_ids"]
        answer = _text(tokenizer, completion)
        if not prompt or not answer:
            got = f"example {number}: {'an empty completion' if prompt else 'an empty prompt'}"
            raise TrainingRefused("data", expected="a prompt and a completion", got=got)
        asked.append(Question(prompt=tuple(prompt), answer=answer, answer_tokens=len(completion)))
    return asked


def count_matches(
    model: nn.Module, tokenizer: Any, asked: Sequence[Question], *, batch_size: int, max_new_tokens: int | None
) -> int:
    """Generates at most ``max_new_tokens``, or as many tokens as each completion has: then a model need not know where
    to stop. Special tokens and white space at the ends do not count."""
    model.eval()
    num_matched = 0
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        limits = [max_new_tokens or question.answer_tokens for question in batch]
        for question, limit, generated in zip(
            batch, limits, _generate(model, tokenizer, batch, max(limits)), strict=True
        ):
            num_matched += _text(tokenizer, generated[:limit]) == question.answer
    return num_matched


@torch.no_grad()
def _generate(model: Any, tokenizer: Any, batch: Sequence[Question], max_new_tokens: int) -> list[list[int]]:
    """The tokens after each prompt, up to the end of the sequence."""
    ends = _end_tokens(model, tokenizer)
    filler = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    width = max(len(question.prompt) for question in batch)
    input_ids = torch.full((len(batch), width), filler)
    attention_mask = torch.zeros_like(input_ids)
    for row, question in enumerate(batch):  # padded on the left: the answer goes on where the prompt ends
        input_ids[row, width - len(question.prompt) :] = torch.tensor(question.prompt)
        attention_mask[row, width - len(question.prompt) :] = 1
    device = next(model.parameters()).device
    with _nothing_but_greedy(model, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=filler):
        output: Tensor = model.generate(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device))
    rows: list[list[int]] = output[:, width:].tolist()
    return [row[: next((place for place, token in enumerate(row) if token in ends), len(row))] for row in rows]


@contextmanager
def _nothing_but_greedy(model: Any, **settings: Any) -> Iterator[None]:
    """Without the penalties and forced tokens that a checkpoint's own generation config may bring in."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(do_sample=False, **settings)
    try:
        yield
    finally:
        model.generation_config = own


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()
