"""What a generation answers, as JSON. What is None is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field

from server.core.requests import FinishReason, LikelyToken, Receipt, TokenLogprob, Usage


class UsageView(BaseModel):
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


class AppliedView(BaseModel):
    name: str
    version: str
    scale: float


class ReceiptView(BaseModel):
    """What was really applied to produce the answer. ``mode`` is ``mixed`` if some step of it ran beside others."""

    base: str
    adapters: list[AppliedView]
    fusion: str
    blend_key: str
    mode: str
    switch_ms: float
    queue_ms: float
    total_ms: float

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        return cls(
            base=receipt.base,
            adapters=[AppliedView(name=one.name, version=one.version, scale=one.scale) for one in receipt.adapters],
            fusion=receipt.fusion,
            blend_key=receipt.blend_key,
            mode=receipt.mode,
            switch_ms=receipt.switch_ms,
            queue_ms=receipt.queue_ms,
            total_ms=receipt.total_ms,
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


class Answer(BaseModel):
    """``text``, ``finish_reason`` and ``receipt`` are those of the first answer; ``usage`` is of all of them."""

    id: str
    text: str
    finish_reason: FinishReason
    usage: UsageView
    receipt: ReceiptView
    logprobs: list[LogprobView] | None = Field(
        default=None, description=f"{LOGPROBS_TEXT} With `n` above 1 they are in `choices`."
    )
    choices: list[Choice] | None = Field(
        default=None, description="When `n` is above 1: every answer, the first one included."
    )
