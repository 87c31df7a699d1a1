"""Decoders of the Llama family: one forward over all rows of a step, whatever their lengths, and paged KV memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from adapters_store.kernels import RowKernels, RowPlan
from server.core.requests import RequestId
from server.core.steps import Reused
from server.runners.backend import Beginning, Span, row_groups
from server.runners.corrections import linears_in, names_of
from server.runners.decoder import LlamaDecoder, kv_shape
from server.runners.ops import Segment, get_ops
from server.runners.page_table import PagedSequence
from server.runners.pages import Pages


class PagedBackend:
    """Satisfies ``Backend``. Sequences of one tenant and blend share the pages of a common beginning."""

    def __init__(self, model: Any, kernels: RowKernels, *, kv_budget_bytes: int) -> None:
        """``model``: one that ``decoder.can_decode``."""
        shape = kv_shape(model)
        self._device = model.device
        self._pages = Pages(shape, device=self._device, budget_bytes=kv_budget_bytes)
        self._decoder = LlamaDecoder(model, kernels, get_ops(self._device, shape.dtype, shape.head_dim), self._pages)
        self._patches = kernels.has_native_linear(shape.dtype)
        self._mixable = names_of(model, linears_in(model.model.layers))
        self._sequences: dict[RequestId, PagedSequence] = {}

    @property
    def mixable_weights(self) -> frozenset[str]:
        return self._mixable

    @property
    def max_sequence_tokens(self) -> int:
        return self._pages.num_tokens

    def fits(self, lengths: Sequence[int]) -> bool:
        """Counts what sequences share once for each of them."""
        return self._pages.table.fits(lengths)

    def begin(self, sequence: Beginning) -> Reused:
        begun = self._pages.table.begin(
            sequence.tenant, sequence.blend_key, sequence.tokens, must_be_fused=sequence.must_be_fused
        )
        self._sequences[sequence.id] = begun
        return Reused(num_tokens=begun.num_tokens, mode=begun.mode)

    def forward(self, spans: Sequence[Span]) -> Tensor:
        segments, sampled, row = [], [], 0
        for span in spans:
            sequence = self._sequences[span.id]
            self._pages.table.reserve(sequence, len(span.tokens))
            segments.append(Segment(num_tokens=len(span.tokens), position=span.start, pages=sequence.pages))
            row += len(span.tokens)
            if span.samples:
                sampled.append(row - 1)
        logits = self._decoder.forward(
            torch.tensor([token for span in spans for token in span.tokens], device=self._device),
            segments,
            RowPlan(row_groups(spans, patches=self._patches)),
            torch.tensor(sampled, dtype=torch.int64, device=self._device),
        )
        for span in spans:
            self._pages.table.fill(self._sequences[span.id], span.tokens, span.mode)
        return logits

    @property
    def kv_bytes(self) -> int:
        return self._pages.table.num_used_pages * self._pages.shape.page_bytes

    @property
    def kv_budget_bytes(self) -> int:
        return self._pages.table.num_pages * self._pages.shape.page_bytes

    def describe(self) -> dict[str, Any]:
        table = self._pages.table
        return {
            "kind": "paged",
            "num_pages": table.num_pages,
            "num_used_pages": table.num_used_pages,
            "num_cached_pages": table.num_cached_pages,
        }

    def release(self, ids: Collection[RequestId]) -> None:
        for request in ids:
            sequence = self._sequences.pop(request, None)
            if sequence is not None:
                self._pages.table.release(sequence)
