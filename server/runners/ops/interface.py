"""The operations of a decoder layer as a Protocol, and the small nouns that its methods speak in.

All tensors of one call are contiguous, of one dtype and on one device. Every operation computes in float32, rounds
once at its end, and works in place: a step makes no tensors but those of its products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from server.runners.ops.ragged import Ragged


@dataclass(frozen=True, kw_only=True)
class LayerPages:
    """The KV pages of one layer.

    ``keys`` (num_pages, num_kv_heads, head_dim, 16): the positions of a page side by side, so that they are the lanes
    of a score. ``values`` (num_pages, num_kv_heads, 16, value_dim): ``head_dim`` padded to whole vectors; what the
    padding holds is never used."""

    keys: Tensor
    values: Tensor

    @property
    def num_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def head_dim(self) -> int:
        return self.keys.shape[2]

    @cached_property
    def arguments(self) -> tuple[int, int, int, int, int]:
        """As struct Pages in csrc/ops.h."""
        return self.keys.data_ptr(), self.values.data_ptr(), self.num_heads, self.head_dim, self.values.shape[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTable:
    """Rotary embeddings of the first positions. ``turns`` float32 (num_positions, 2, head_dim / 2): cosines, sines."""

    turns: Tensor

    @property
    def num_positions(self) -> int:
        return self.turns.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """x / sqrt(mean(x²) + eps) · weight, over vectors as long as ``weight``."""

    weight: Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNorms:
    """Norms of each head of the queries and keys, before they turn. Weights (head_dim,)."""

    query: Norm
    key: Norm


class Ops(Protocol):
    """Row i of a result depends on row i and the pages of its sequence alone, never on what else is in the step."""

    @property
    def name(self) -> str: ...

    def add_norm_(self, x: Tensor, update: Tensor, norm: Norm) -> None:
        """Adds ``update`` to ``x``, both (rows, width), and puts the norm of the rounded sum in ``update``."""
        ...

    def rope_and_store_(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        norms: HeadNorms | None,
        rope: RopeTable,
        ragged: Ragged,
        pages: LayerPages,
    ) -> None:
        """Norms and turns the heads of ``q`` (rows, heads · head_dim) in place; norms and turns those of ``k`` and
        stores them with ``v`` (rows, kv_heads · head_dim) in the pages of their sequences. The two halves of a head
        turn against each other, as in Llama."""
        ...

    def attend_(self, q: Tensor, *, scale: float, ragged: Ragged, pages: LayerPages) -> None:
        """Replaces the heads of ``q`` (rows, heads · head_dim) by softmax(scale · q Kᵀ) V over the row's sequence up to
        its own position, which is stored already. Consecutive query heads share a kv head."""
        ...

    def gate_(self, gate: Tensor, up: Tensor) -> None:
        """Replaces ``gate`` by silu(gate) · up, with silu(g) = g / (1 + exp(−g))."""
        ...
