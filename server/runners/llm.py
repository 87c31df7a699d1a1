"""Runs a causal LM step by step: sequences join, leave and pause at every step, each under its own blend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from adapters_store.blend import BlendKey
from adapters_store.kernels import RowTargets
from server.core.requests import LikelyToken, RequestId, TokenLogprob
from server.core.steps import New, NewSequence, Reused, StepToken, Work
from server.runners.backend import Backend, Beginning, Span
from server.runners.sampling import Sampler, likeliest
from server.runners.text import IncrementalDecoder, TextCodec


class Blends(Protocol):
    """What is in the weights and beside them: the execution."""

    def targets(self, key: BlendKey) -> RowTargets | None: ...


@dataclass(slots=True, kw_only=True)
class _Live:
    """What one sequence carries besides its KV. ``tokens``: prompt and answer; the first ``num_cached`` have KV."""

    new: NewSequence
    tokens: list[int]
    sampler: Sampler
    decoder: IncrementalDecoder
    num_cached: int = 0


class LlmRunner:
    """Satisfies ``engine.ports.Runner``. Owns the sequences; the backend owns their KV. Engine thread only."""

    def __init__(
        self, backend: Backend, blends: Blends, codec: TextCodec, *, eos_tokens: frozenset[int], device: torch.device
    ) -> None:
        self._backend = backend
        self._blends = blends
        self._codec = codec
        self._eos = eos_tokens
        self._device = device
        self._live: dict[RequestId, _Live] = {}

    @property
    def max_sequence_tokens(self) -> int:
        return self._backend.max_sequence_tokens

    def fits(self, lengths: Sequence[int]) -> bool:
        return self._backend.fits(lengths)

    def begin(self, new: New) -> Reused:
        assert isinstance(new, NewSequence)  # noqa: S101  (an image base has another runner)
        live = self._live.get(new.id)
        if live is None:
            live = self._live[new.id] = _Live(
                new=new,
                tokens=list(new.prompt_tokens),
                sampler=Sampler(new.sampling, new.prompt_tokens, self._device),
                decoder=self._codec.decoder(),
            )
        reused = self._backend.begin(
            Beginning(
                id=new.id,
                tenant=new.tenant,
                blend_key=new.blend.key,
                tokens=live.tokens,
                must_be_fused=new.must_be_fused,
            )
        )
        live.num_cached = reused.num_tokens
        return reused

    @torch.inference_mode()
    def step(self, work: Sequence[Work]) -> list[StepToken]:
        spans = sorted((self._span(item) for item in work), key=_order)
        logits = self._backend.forward(spans)
        for span in spans:
            self._live[span.id].num_cached += len(span.tokens)
        return self._sample([span.id for span in spans if span.samples], logits)

    def pause(self, ids: Collection[RequestId]) -> None:
        self._backend.release(ids)
        for request in ids:
            self._live[request].num_cached = 0

    def finish_text(self, sequence_id: RequestId) -> str:
        live = self._live.get(sequence_id)
        return "" if live is None else live.decoder.finish()

    def drop(self, ids: Collection[RequestId]) -> None:
        self._backend.release(ids)
        for request in ids:
            self._live.pop(request, None)

    def describe(self) -> dict[str, Any]:
        return self._backend.describe()

    def _span(self, item: Work) -> Span:
        live = self._live[item.id]
        stop = live.num_cached + item.num_tokens
        if not live.num_cached < stop <= len(live.tokens):
            raise AssertionError(f"{item.num_tokens} tokens from {live.num_cached} of {len(live.tokens)}")
        return Span(
            id=item.id,
            tokens=live.tokens[live.num_cached : stop],
            start=live.num_cached,
            targets=self._blends.targets(live.new.blend.key),
            samples=stop == len(live.tokens),
        )

    def _sample(self, ids: Sequence[RequestId], logits: Tensor) -> list[StepToken]:
        if not ids:
            return []
        greedy = logits.argmax(dim=-1).tolist()  # the first of equals, as in a row alone
        return [self._advance(request, logits[row], greedy[row]) for row, request in enumerate(ids)]

    def _advance(self, request: RequestId, logits: Tensor, greedy: int) -> StepToken:
        live = self._live[request]
        token = greedy if live.sampler.is_plain_greedy else live.sampler.draw(logits)
        live.tokens.append(token)
        is_eos = token in self._eos
        return StepToken(
            id=request,
            token=token,
            is_eos=is_eos,
            text="" if is_eos else live.decoder.push(token),
            logprob=self._logprob(live.new.sampling.num_logprobs, logits, token),
        )

    def _logprob(self, num_top: int | None, logits: Tensor, token: int) -> TokenLogprob | None:
        if num_top is None:
            return None
        drawn, top = likeliest(logits, token, num_top)
        return TokenLogprob(drawn=self._likely(token, drawn), top=tuple(self._likely(*each) for each in top))

    def _likely(self, token: int, logprob: float) -> LikelyToken:
        return LikelyToken(token=token, text=self._codec.decode([token]), logprob=logprob)


def _order(span: Span) -> tuple[int, int]:
    """Plain rows first, then rows of one blend together, short spans before long ones."""
    return (0 if span.targets is None else id(span.targets), len(span.tokens))
