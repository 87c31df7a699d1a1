"""What is served: a checkpoint directory, random ones included, and words that are one token each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adapters_store.tools.bench_train_contenders import random_llama
from adapters_store.tools.checkpoint import load_tokenizer
from server.core.errors import ServerError

MAX_WORDS = 2000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def random_model(num_params: int, *, seed: int, tokenizer_of: Path, work_dir: Path) -> Path:
    """A bfloat16 Llama of about ``num_params`` random weights with another checkpoint's tokenizer; made once.

    All of the tokenizer's vocabulary has embeddings, tied; neither tokenizer nor model knows an end of text."""
    path = work_dir / f"random-llama-{num_params / 1e6:.0f}M-{seed}"
    if path.exists():
        return path
    tokenizer = load_tokenizer(tokenizer_of)
    model: Any = random_llama(num_params, dtype=torch.bfloat16, seed=seed, vocabulary=len(tokenizer))
    model.config.bos_token_id = model.config.eos_token_id = None
    model.generation_config.bos_token_id = model.generation_config.eos_token_id = None
    making = work_dir / f".making-{path.name}"
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_of / name, making / name)
    return making.rename(path)


def one_token_words(tokenizer: Any) -> Sequence[str]:
    """Texts, each a space and letters, of which any number in a row are as many tokens.

    Raises ServerError if there is none."""
    words = [tokenizer.convert_tokens_to_string([token]) for token in tokenizer.get_vocab()]
    words = sorted(word for word in words if re.fullmatch(r" [A-Za-z]+", word))
    tokens = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    words = [word for word, of_word in zip(words, tokens, strict=True) if len(of_word) == 1]
    if not words:
        raise ServerError("the tokenizer has no word of letters that is a single token: no prompts can be made of it")
    return words[:: -(-len(words) // MAX_WORDS)]
