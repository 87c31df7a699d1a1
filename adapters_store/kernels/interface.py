"""What can be done with sparse deltas, as a Protocol; and the small nouns that its methods speak in.

A *words buffer* is a uint8 tensor (``Bound.words_bytes``,) that holds, weight by weight in table order, the words
(2 or 4 bytes each, the weight's dtype) of the entries; each weight's part starts on a multiple of 4 bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adapters_store.adapter import WeightTable
from adapters_store.kernels.blocks import IndexFault
from adapters_store.kernels.bound import Bound


class Journal:
    """How far a write has come: a write-ahead count for rolling back.

    ``num_weights_displaced``: of the first so many weights some words may be overwritten, and all the words they
    displaced are saved. Raised before a weight's first word is written, so never too small.
    """

    def __init__(self) -> None:
        self._cell = array("q", [0])

    @property
    def num_weights_displaced(self) -> int:
        return self._cell[0]

    @num_weights_displaced.setter
    def num_weights_displaced(self, count: int) -> None:
        self._cell[0] = count

    @property
    def address(self) -> int:
        """Where the count lies in memory (int64), for native code."""
        return self._cell.buffer_info()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """``words``: a words buffer ready to be exchanged in. ``num_out_of_range``: entries whose word is not finite
    although the base's word is; a blend that has any must be refused."""

    words: Tensor
    num_out_of_range: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionMember:
    """One sparse delta of a union. ``blocks`` int64 (num_blocks,): its own block for each block of the union, or −1.
    ``offsets``, ``indices``, ``values`` as in IndexSet and Adapter; valid."""

    blocks: Tensor
    offsets: Tensor
    indices: Tensor
    values: Tensor
    scale: float


class Kernels(Protocol):
    """Every method checks its arguments before it writes anything (ValueError names the argument).

    May be called on any thread; calls that touch the same weights must not overlap. The tensors of one call are on
    one device.
    """

    @property
    def name(self) -> str: ...

    def stage(self, bound: Bound, delta: Tensor) -> Staging:
        """Rounds ``fp32(word) + delta`` to each weight's dtype: nearest, ties to even, NaN to the positive quiet NaN.

        ``delta`` float32 (num_entries,). The weights are only read and must hold the base at these positions."""
        ...

    def exchange(self, bound: Bound, words: Tensor, displaced: Tensor, journal: Journal | None = None) -> None:
        """Writes ``words`` into the weights and what they displaced into ``displaced`` (both words buffers)."""
        ...

    def overwrite(self, bound: Bound, words: Tensor) -> None:
        """Writes ``words`` into the weights. With displaced words this is the restore."""
        ...

    def switch(
        self,
        out: Bound,
        out_displaced: Tensor,
        into: Bound,
        into_words: Tensor,
        into_displaced: Tensor,
        *,
        journal: Journal | None = None,
    ) -> None:
        """Restores ``out`` and exchanges ``into`` in, in one pass; their tables may differ.

        The result, weights and ``into_displaced`` alike, is that of ``overwrite(out, out_displaced)`` followed by
        ``exchange(into, into_words, into_displaced, journal)``; ``rollback`` leads from a failure to the base."""
        ...

    def scan_indices(self, table: WeightTable, offsets: Tensor, indices: Tensor) -> IndexFault | None:
        """First fault in a hostile index set: checks ``offsets``, ``count``, ``range``, ``sorted``, ``unique``."""
        ...

    def scan_values(self, values: Tensor) -> int | None:
        """Position of the first value that is not finite."""
        ...

    def union_sum(self, num_blocks: int, members: Sequence[UnionMember]) -> tuple[Tensor, Tensor, Tensor]:
        """Σ fp32(scale) · fp32(value) on the union of the supports: (offsets, indices, delta float32).

        Products are rounded to float32 and added in the members' order, starting from the first product that falls
        on a position."""
        ...


def rollback(
    kernels: Kernels,
    journal: Journal,
    into: Bound,
    into_displaced: Tensor,
    *,
    out: Bound | None = None,
    out_displaced: Tensor | None = None,
) -> None:
    """Brings the base back after an exchange or a switch that failed on the way, wherever it failed."""
    head = into.head(journal.num_weights_displaced)
    if head.num_weights:
        kernels.overwrite(head, into_displaced[: head.words_bytes])
    if out is not None and out_displaced is not None:
        kernels.overwrite(out, out_displaced)
