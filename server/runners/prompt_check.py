"""How much of a prompt the text encoders of a picture base read: diffusers cuts off the rest without an error."""

from __future__ import annotations

import copy
import inspect
from typing import Any

UNBOUNDED = 100_000  # tokenizers without a limit of their own name an astronomical one


class PromptCheck:
    """Satisfies ``api.services.PromptCheck`` by the encoder that reads most: families with several give the short ones
    the beginning of the prompt by design. One thread at a time."""

    def __init__(self, pipeline: Any) -> None:
        """Raises ValueError for a pipeline without a tokenizer."""
        named = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part]
        if not named:
            raise ValueError("the pipeline has no tokenizer")
        limits = [_limit(pipeline, tokenizer) for tokenizer in named]
        self.max_tokens = max(limits)
        self._tokenizer = copy.deepcopy(named[limits.index(self.max_tokens)])  # the pipeline's is the engine thread's

    def num_tokens(self, prompt: str) -> int:
        """Special tokens included."""
        return len(self._tokenizer(prompt, truncation=False, verbose=False).input_ids)


def _limit(pipeline: Any, tokenizer: Any) -> int:
    own = int(tokenizer.model_max_length)
    parameter = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    is_clip = "clip" in type(tokenizer).__name__.lower()
    if own < UNBOUNDED and (is_clip or parameter is None):
        return own
    asked = parameter.default if parameter is not None else own
    return min(own, int(asked))
