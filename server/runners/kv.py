"""The KV memory of rows that step together: joined by padding on the left, parted by selecting rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from server.core.requests import RequestId

GROWTH_TOKENS = 64


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values are views of buffers with room for more tokens: appending copies the new ones alone."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: Tensor | None
        self.values: Tensor | None
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends along the token dimension of (rows, heads, tokens, head_dim); returns all so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < new:
            self._buffers = (self._grown(self.keys, key_states, new), self._grown(self.values, value_states, new))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, old:new] = states
        self.keys, self.values = (buffer[:, :, :new] for buffer in self._buffers)
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Replaces the contents; room to grow is made at the next update."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._buffers = keys, values, None

    @staticmethod
    def _grown(old: Tensor | None, like: Tensor, num_tokens: int) -> Tensor:
        rows, heads, _, head_dim = like.shape
        buffer = like.new_empty(rows, heads, num_tokens + GROWTH_TOKENS, head_dim)
        if old is not None and old.numel():
            buffer[:, :, : old.shape[-2]] = old
        return buffer


@dataclass(slots=True, kw_only=True)
class Batch:
    """Rows that run in one forward. ``mask`` int64 (rows, tokens): 0 for padding, which is always on the left."""

    ids: list[RequestId]
    cache: Cache
    mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """(rows,) tokens without padding; the position of each row's next token."""
        return self.mask.sum(dim=1)

    def grow(self, num_tokens: int) -> None:
        """Room in the mask for more tokens of every row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.ids), num_tokens)], dim=1)


def can_share_a_batch(config: Any) -> bool:
    """True if every layer keeps plain full-attention keys and values, which padding and selection leave right."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def new_cache(config: Any, *, shared: bool) -> Cache:
    if not shared:
        return DynamicCache(config=config)
    return Cache(layers=[GrowingLayer() for _ in DynamicCache(config=config).layers])


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of all rows, in order; shorter ones are padded on the left. The inputs must not be used again."""
    if len(batches) == 1:
        return batches[0]
    num_tokens = max(batch.mask.shape[1] for batch in batches)
    for layers in zip(*(batch.cache.layers for batch in batches), strict=True):
        keys = torch.cat([_pad_left(layer.keys, num_tokens, dim=2) for layer in layers])
        values = torch.cat([_pad_left(layer.values, num_tokens, dim=2) for layer in layers])
        layers[0].put(keys, values)
    return Batch(
        ids=[row for batch in batches for row in batch.ids],
        cache=batches[0].cache,
        mask=torch.cat([_pad_left(batch.mask, num_tokens, dim=1) for batch in batches]),
    )


def part(batch: Batch, keep: set[RequestId]) -> tuple[Batch | None, Batch | None]:
    """(rows in ``keep``, the others), each None if it has no rows. The input must not be used again."""
    inside = [row for row, request in enumerate(batch.ids) if request in keep]
    outside = [row for row, request in enumerate(batch.ids) if request not in keep]
    if not outside:
        return batch, None
    if not inside:
        return None, batch
    return _select(batch, inside), _select(batch, outside)


def _select(batch: Batch, rows: list[int]) -> Batch:
    """A copy of some rows, without the padding that none of them needs any more."""
    index = torch.tensor(rows, device=batch.mask.device)
    mask = batch.mask[index]  # (rows, tokens)
    first = int(mask.any(dim=0).to(torch.int8).argmax())
    layers = []
    for layer in batch.cache.layers:
        selected = GrowingLayer()
        selected.put(layer.keys[index, :, first:], layer.values[index, :, first:])
        layers.append(selected)
    return Batch(ids=[batch.ids[row] for row in rows], cache=Cache(layers=layers), mask=mask[:, first:])


def _pad_left(tensor: Tensor, size: int, *, dim: int) -> Tensor:
    missing = size - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
