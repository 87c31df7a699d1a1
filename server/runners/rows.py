"""Any causal LM through transformers' own forward: rows that decode share one left-padded batch, prompts run alone."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.kernels import RowKernels
from server.core.errors import ModelNotLoadable
from server.core.requests import RequestId
from server.core.steps import Reused
from server.runners.backend import Beginning, Span, row_groups
from server.runners.corrections import corrected, linears_of_every_token, names_of
from server.runners.kv import GROWTH_TOKENS, Batch, can_share_a_batch, join, new_cache, part

PROBE_TOKENS = 3


class RowsBackend:
    """Satisfies ``Backend``. The breadth path: every model that transformers runs step by step with a cache.

    A model whose cache is not plain full attention (sliding window, recurrent) runs one row per forward: slower,
    equally right. Nothing is reused between sequences."""

    def __init__(self, model: Any, kernels: RowKernels, *, kv_budget_bytes: int) -> None:
        """Runs a few tokens through the model to learn what their KV takes and which products see every row.

        Raises ModelNotLoadable."""
        self._model = model
        self._kernels = kernels
        self._device = next(model.parameters()).device
        self._shares = can_share_a_batch(model.config)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._batches: list[Batch] = []
        self._linears, self._kv_bytes_per_token = self._probe()
        self._kv_budget_tokens = kv_budget_bytes // max(1, self._kv_bytes_per_token)

    @property
    def mixable_weights(self) -> frozenset[str]:
        return names_of(self._model, self._linears)

    @property
    def max_sequence_tokens(self) -> int:
        return max(0, self._kv_budget_tokens - GROWTH_TOKENS)

    def fits(self, lengths: Sequence[int]) -> bool:
        """Counts every row as long as the longest, to which it is padded, and the room to grow."""
        return len(lengths) * (max(lengths, default=0) + GROWTH_TOKENS) <= self._kv_budget_tokens

    def begin(self, sequence: Beginning) -> Reused:
        return Reused()

    def forward(self, spans: Sequence[Span]) -> Tensor:
        decoding = [span for span in spans if len(span.tokens) == 1 and span.start > 0]
        logits = self._decode(decoding) if decoding else {}
        for span in spans:
            if span.id not in logits:
                logits[span.id] = self._extend(span)
        return torch.stack([logits[span.id] for span in spans if span.samples]) if logits else torch.empty(0)

    @property
    def kv_bytes(self) -> int:
        return self._num_used_tokens * self._kv_bytes_per_token

    @property
    def kv_budget_bytes(self) -> int:
        return self._kv_budget_tokens * self._kv_bytes_per_token

    def describe(self) -> dict[str, Any]:
        return {"kind": "rows", "num_tokens": self._kv_budget_tokens, "num_used_tokens": self._num_used_tokens}

    def release(self, ids: Collection[RequestId]) -> None:
        gone = set(ids)
        if any(gone.intersection(batch.ids) for batch in self._batches):
            self._batches = [rest for batch in self._batches if (rest := part(batch, gone)[1]) is not None]

    def _decode(self, spans: Sequence[Span]) -> dict[RequestId, Tensor]:
        by_id = {span.id: span for span in spans}
        logits = {}
        for batch in self._gather(set(by_id)):
            rows = [by_id[request] for request in batch.ids]
            tokens = torch.tensor([[row.tokens[0]] for row in rows], device=self._device)
            for request, row in zip(batch.ids, self._run(batch, rows, tokens), strict=True):
                logits[request] = row
        return logits

    def _extend(self, span: Span) -> Tensor:
        """A prompt, or its next chunk."""
        if span.start:
            (batch,) = self._gather({span.id})
        else:
            batch = Batch(
                ids=[span.id],
                cache=new_cache(self._model.config, shared=self._shares),
                mask=torch.ones(1, 0, dtype=torch.int64, device=self._device),
            )
            self._batches.append(batch)
        return self._run(batch, [span], torch.tensor([list(span.tokens)], device=self._device))[0]

    def _gather(self, ids: set[RequestId]) -> list[Batch]:
        """The batches that hold exactly ``ids``: one where rows can share a batch."""
        chosen, others = [], []
        for batch in self._batches:
            inside, outside = part(batch, ids)
            chosen += [inside] if inside else []
            others += [outside] if outside else []
        if self._shares and chosen:
            chosen = [join(chosen)]
        self._batches = chosen + others
        return chosen

    @property
    def _num_used_tokens(self) -> int:
        return sum(batch.mask.numel() for batch in self._batches)

    def _run(self, batch: Batch, spans: Sequence[Span], tokens: Tensor) -> Tensor:
        """Appends ``tokens`` (rows, n), one span a row, to the batch; logits of each row's last token, float32
        (rows, vocabulary)."""
        positions = batch.lengths.unsqueeze(1) + torch.arange(tokens.shape[1], device=self._device)  # (rows, n)
        batch.grow(tokens.shape[1])
        with corrected(self._linears, row_groups(spans, patches=False), self._kernels):
            return self._forward(batch, tokens, positions).float()

    def _forward(self, batch: Batch, tokens: Tensor, positions: Tensor) -> Tensor:
        where = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=tokens,
            attention_mask=batch.mask,
            past_key_values=batch.cache,
            use_cache=True,
            **where,
            **self._extra,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def _probe(self) -> tuple[list[nn.Linear], int]:
        """The linear modules that see every token, and the KV bytes of one token."""
        cache = new_cache(self._model.config, shared=self._shares)
        tokens = torch.zeros(1, PROBE_TOKENS, dtype=torch.int64, device=self._device)
        probe = Batch(ids=[RequestId("probe")], cache=cache, mask=torch.ones_like(tokens))

        def run() -> int:
            self._forward(probe, tokens, torch.arange(PROBE_TOKENS, device=self._device).unsqueeze(0))
            return PROBE_TOKENS

        try:
            linears = linears_of_every_token(self._model, run)
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise ModelNotLoadable(f"{type(self._model).__name__} cannot be run step by step: {error}") from error
        held = [t for layer in cache.layers for t in (getattr(layer, "keys", None), getattr(layer, "values", None))]
        return linears, sum(tensor.nbytes for tensor in held if tensor is not None) // PROBE_TOKENS
