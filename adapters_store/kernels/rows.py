"""A blend's target words, row by row of each weight: what rows of a batch run with whose blend is not fused."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS
from adapters_store.kernels.bound import WORD_DTYPES, Bound, words_starts

MAX_COLUMNS = BLOCK_ELEMENTS  # what a uint16 column can address


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """One weight's share of a row layout. The slices are of ``starts``, of ``columns`` and of a words buffer."""

    weight: Tensor  # (out_features, in_features)
    starts: slice
    entries: slice
    words_bytes: slice

    @property
    def word_dtype(self) -> torch.dtype:
        return WORD_DTYPES[self.weight.element_size()]

    def words_of(self, words: Tensor) -> Tensor:
        """(count,) int16 or int32: this weight's part of a words buffer, its own memory."""
        return words[self.words_bytes].view(self.word_dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowLayout:
    """A bound index set as compressed sparse rows. Made by RowKernels only: whoever holds one may read and write its
    weights' rows at its columns without further checks. Holds the weights' storage alive.

    ``starts`` int32: for each weight in turn ``out_features + 1`` entry positions, counted from the weight's first one.
    ``columns`` uint16 (num_entries,): strictly ascending inside each row.
    Words buffers have the form that a Bound of the same weights and counts gives them.
    """

    weights: tuple[Tensor, ...]  # each (out_features, in_features), contiguous
    counts: tuple[int, ...]  # entries in each weight
    starts: Tensor
    columns: Tensor

    @property
    def num_bytes(self) -> int:
        return self.starts.nbytes + self.columns.nbytes

    @cached_property
    def words_starts(self) -> tuple[int, ...]:
        return words_starts(self.counts, self.weights)

    @property
    def words_bytes(self) -> int:
        return self.words_starts[-1]

    @cached_property
    def parts(self) -> dict[int, RowPart]:
        """By the address of the weight's first element; weights without entries are left out."""
        starts = accumulate((weight.shape[0] + 1 for weight in self.weights), initial=0)
        entries = accumulate(self.counts, initial=0)
        return {
            weight.data_ptr(): RowPart(
                weight=weight,
                starts=slice(start, start + weight.shape[0] + 1),
                entries=slice(entry, entry + count),
                words_bytes=slice(word, word + count * weight.element_size()),
            )
            for weight, count, start, entry, word in zip(
                self.weights, self.counts, starts, entries, self.words_starts, strict=False
            )
            if count
        }

    def part_of(self, weight: Tensor) -> RowPart | None:
        """The share of this very weight, None where the layout has no entry in it.

        Raises ValueError for a tensor that begins where a weight does without having its form."""
        part = self.parts.get(weight.data_ptr())
        if part is not None and (part.weight.shape != weight.shape or part.weight.dtype != weight.dtype):
            expected = f"{part.weight.dtype} {tuple(part.weight.shape)}"
            raise ValueError(f"weight: expected {expected} as in the layout, got {weight.dtype} {tuple(weight.shape)}")
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What native code reads for some weights: a table of addresses, and the tensors that they lead to."""

    table: bytes
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowTargets:
    """What rows run with instead of what is in the weights: ``words`` (a words buffer of ``layout``) at its entries.

    Good for one state of the weights at these entries: kernels keep the differences that they take at the first use.
    Make another (at no cost) after a switch. Raises ValueError for words that do not fit the layout."""

    layout: RowLayout
    words: Tensor
    prepared: dict[bytes, Prepared] = field(default_factory=dict, init=False, repr=False)  # by kernels, for kernels

    def __post_init__(self) -> None:
        words, device = self.words, self.layout.columns.device
        expected = f"a contiguous uint8 tensor ({self.layout.words_bytes},) on {device}, aligned to 4 bytes"
        if words.dtype != torch.uint8 or words.shape != (self.layout.words_bytes,) or words.device != device:
            raise ValueError(f"words: expected {expected}, got {words.dtype} {tuple(words.shape)} on {words.device}")
        if not words.is_contiguous() or words.data_ptr() % 4:
            raise ValueError(f"words: expected {expected}, got stride {words.stride()}")

    @property
    def num_bytes(self) -> int:
        """Of the words and of what kernels have made of them so far."""
        made = (tensor.nbytes for prepared in list(self.prepared.values()) for tensor in prepared.tensors)
        return self.words.nbytes + sum(made)

    def addresses_of(self, weight: Tensor) -> tuple[int, int, int]:
        """Where the starts, columns and words for this weight lie; zeros where it is not touched."""
        part = self.layout.part_of(weight)
        if part is None:
            return 0, 0, 0
        starts, columns = self.layout.starts, self.layout.columns
        return (
            starts.data_ptr() + part.starts.start * starts.element_size(),
            columns.data_ptr() + part.entries.start * columns.element_size(),
            self.words.data_ptr() + part.words_bytes.start,
        )


def row_weights(bound: Bound) -> tuple[Tensor, ...]:
    """The bound weights in two dimensions. Raises ValueError naming the first that rows cannot be made of."""
    for entry in bound.index_set.table:
        if len(entry.shape) != 2 or not 0 < entry.shape[1] <= MAX_COLUMNS:
            raise ValueError(f"{entry.name}: expected (out_features, in_features ≤ {MAX_COLUMNS}), got {entry.shape}")
        if entry.count > torch.iinfo(torch.int32).max:
            raise ValueError(f"{entry.name}: expected fewer than 2³¹ entries, got {entry.count}")
    return tuple(weight.view(entry.shape) for entry, weight in zip(bound.index_set.table, bound.weights, strict=True))


def union_weights(one: RowLayout, other: RowLayout) -> list[Tensor]:
    """The weights of both, each once. Raises ValueError where the two see one weight in different forms."""
    for weight in one.weights:
        other.part_of(weight)
    known = {weight.data_ptr() for weight in one.weights}
    return [*one.weights, *(weight for weight in other.weights if weight.data_ptr() not in known)]
