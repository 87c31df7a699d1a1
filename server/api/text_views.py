"""What a text request is answered, as JSON. What is None is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field

from server.api.receipt_view import ReceiptView
from server.core.requests import FinishReason, LikelyToken, TokenLogprob, Usage


class TextUsage(BaseModel):
    """``prompt_tokens`` counts the prompt once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, usages: Sequence[Usage]) -> Self:
        """Of answers to one prompt; at least one."""
        return cls(
            prompt_tokens=usages[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in usages),
        )


class TokenView(BaseModel):
    """A token of the vocabulary, what it reads by itself, and its natural-log probability."""

    token: int
    text: str
    logprob: float | None = Field(default=None, description="Absent where the model's figure is no finite number.")

    @classmethod
    def of(cls, likely: LikelyToken) -> Self:
        logprob = likely.logprob if math.isfinite(likely.logprob) else None  # JSON knows no other numbers
        return cls(token=likely.token, text=likely.text, logprob=logprob)


class LogprobView(BaseModel):
    """``top``: the likeliest tokens in the place of the drawn one, likeliest first."""

    drawn: TokenView
    top: list[TokenView]

    @classmethod
    def of(cls, told: TokenLogprob) -> Self:
        return cls(drawn=TokenView.of(told.drawn), top=[TokenView.of(likely) for likely in told.top])


LOGPROBS_TEXT = "Of each drawn token in order, when `logprobs` was asked for."


class Choice(BaseModel):
    """One of several answers."""

    index: int
    text: str
    finish_reason: FinishReason
    receipt: ReceiptView
    logprobs: list[LogprobView] | None = Field(default=None, description=LOGPROBS_TEXT)


class TextAnswer(BaseModel):
    """``text``, ``finish_reason`` and ``receipt`` are those of the first answer; ``usage`` is of all of them."""

    id: str
    text: str
    finish_reason: FinishReason
    usage: TextUsage
    receipt: ReceiptView
    logprobs: list[LogprobView] | None = Field(
        default=None, description=f"{LOGPROBS_TEXT} With `n` above 1 they are in `choices`."
    )
    choices: list[Choice] | None = Field(
        default=None, description="When `n` is above 1: every answer, the first one included."
    )
