"""An index set bound to the weights it will be written into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, DTYPE_NAMES, IndexSet, WeightEntry
from adapters_store.errors import BaseMismatch
from adapters_store.kernels.blocks import offsets_fault

WORD_DTYPES = {2: torch.int16, 4: torch.int32}  # the integer views that words travel in
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in csrc/ops.h
VISIT_COLUMNS = 6  # data address, bytes of the block, first entry, entries, byte offset of its words, dtype code


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One weight's share: its words as a flat integer view, its entries and bytes in a words buffer."""

    entry: WeightEntry
    weight: Tensor  # (numel,) in the weight's dtype
    entries: slice
    words_bytes: slice

    @property
    def flat_words(self) -> Tensor:
        """(numel,) int16 or int32: the weight's own memory."""
        return self.weight.view(self.word_dtype)

    @property
    def word_dtype(self) -> torch.dtype:
        return WORD_DTYPES[self.weight.element_size()]

    def words_of(self, words: Tensor) -> Tensor:
        """(count,) int16 or int32: this weight's part of a words buffer, its own memory."""
        return words[self.words_bytes].view(self.word_dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bound:
    """Made by ``bind`` only: whoever holds one may write through it without further checks of the indices.

    Holds the weights' storage alive. Stale (harmless, useless) once a weight is given another storage.
    """

    index_set: IndexSet
    weights: tuple[Tensor, ...]  # each flat (numel,), the weight's own memory, in table order

    @property
    def device(self) -> torch.device:
        return self.index_set.indices.device

    @property
    def num_weights(self) -> int:
        return len(self.weights)

    @cached_property
    def num_entries(self) -> int:
        return self.index_set.entry_starts[self.num_weights]

    @cached_property
    def words_starts(self) -> tuple[int, ...]:
        """Byte offset of each weight's words, and the total at the end."""
        return words_starts([entry.count for entry in self.index_set.table[: self.num_weights]], self.weights)

    @property
    def words_bytes(self) -> int:
        return self.words_starts[-1]

    def parts(self) -> Iterator[Part]:
        for i, weight in enumerate(self.weights):
            entry = self.index_set.table[i]
            start = self.words_starts[i]
            yield Part(
                entry=entry,
                weight=weight,
                entries=slice(self.index_set.entry_starts[i], self.index_set.entry_starts[i + 1]),
                words_bytes=slice(start, start + entry.count * weight.element_size()),
            )

    def head(self, num_weights: int) -> Bound:
        """The first ``num_weights`` weights alone; its words buffer is a prefix of the whole one."""
        return Bound(index_set=self.index_set, weights=self.weights[:num_weights])

    @cached_property
    def visits(self) -> Tensor:
        """int64 (blocks with entries, VISIT_COLUMNS) on the CPU, ascending by address: what the fast kernels walk."""
        rows = np.array(
            [
                (w.data_ptr(), w.element_size(), w.numel(), e.num_blocks, e.first_block, start, first_entry, code)
                for w, e, start, first_entry, code in zip(
                    self.weights,
                    self.index_set.table,
                    self.words_starts,
                    self.index_set.entry_starts,
                    (DTYPE_CODES[weight.dtype] for weight in self.weights),
                    strict=False,  # a head has fewer weights
                )
            ],
            dtype=np.int64,
        ).reshape(-1, 8)
        rows = rows[np.argsort(rows[:, 0])]
        num_blocks = rows[:, 3]
        address, size, numel, _, first_block, words_start, first_entry, code = rows.repeat(num_blocks, axis=0).T
        local = np.arange(len(address)) - (num_blocks.cumsum() - num_blocks).repeat(num_blocks)
        offsets = self.index_set.offsets.cpu().numpy()
        entry = offsets[first_block + local]
        count = offsets[first_block + local + 1] - entry
        start = local * BLOCK_ELEMENTS
        num_bytes = np.minimum(numel - start, BLOCK_ELEMENTS) * size
        words_offset = words_start + (entry - first_entry) * size
        visits = np.column_stack((address + start * size, num_bytes, entry, count, words_offset, code))
        return torch.from_numpy(visits[count > 0])


def bind(index_set: IndexSet, weights: Sequence[Tensor]) -> Bound:
    """Checks that every entry falls inside ``weights`` (one per table row) and that these do not overlap.

    Raises BaseMismatch where the table does not fit the weights, ValueError where the weights or the index set are
    not in the form that kernels need (contiguous, one device, float32, bfloat16 or float16).
    """
    table = index_set.table
    if len(weights) != len(table):
        raise BaseMismatch("weights", tensor=None, expected=f"{len(table)} weights", got=f"{len(weights)}")
    for entry, weight in zip(table, weights, strict=True):
        _check_weight(entry, weight, index_set.indices.device)
    _check_index_tensors(index_set)
    _check_disjoint(index_set, weights)
    return Bound(index_set=index_set, weights=tuple(weight.detach().view(-1) for weight in weights))


def words_starts(counts: Sequence[int], weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Byte offset of each weight's words in a words buffer that holds ``counts`` of them, and the total at the end."""
    sizes = (_round_up(count * weight.element_size()) for count, weight in zip(counts, weights, strict=True))
    return (0, *accumulate(sizes))


def new_words(bound: Bound) -> Tensor:
    """An uninitialised words buffer on the bound weights' device."""
    return torch.empty(bound.words_bytes, dtype=torch.uint8, device=bound.device)


def check_words(bound: Bound, name: str, words: Tensor) -> None:
    """Raises ValueError unless ``words`` is a words buffer for ``bound``."""
    expected = f"a contiguous uint8 tensor ({bound.words_bytes},) on {bound.device}"
    if words.dtype != torch.uint8 or words.shape != (bound.words_bytes,) or words.device != bound.device:
        raise ValueError(f"{name}: expected {expected}, got {words.dtype} {tuple(words.shape)} on {words.device}")
    if not words.is_contiguous() or words.data_ptr() % 4:
        raise ValueError(f"{name}: expected {expected} aligned to 4 bytes, got stride {words.stride()}")


def check_apart(name: str, words: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError when two words buffers share memory."""
    if _ranges_overlap([words, other]):
        raise ValueError(f"{name}: expected memory of its own, got memory of {other_name}")


def check_exchange(bound: Bound, words: Tensor, displaced: Tensor) -> None:
    """Raises ValueError for buffers that an exchange cannot use."""
    check_words(bound, "words", words)
    check_words(bound, "displaced", displaced)
    check_apart("displaced", displaced, "words", words)


def check_switch(out: Bound, out_displaced: Tensor, into: Bound, into_words: Tensor, into_displaced: Tensor) -> None:
    """Raises ValueError for buffers that a switch cannot use."""
    check_words(out, "out_displaced", out_displaced)
    check_words(into, "into_words", into_words)
    check_words(into, "into_displaced", into_displaced)
    check_apart("into_displaced", into_displaced, "into_words", into_words)
    check_apart("into_displaced", into_displaced, "out_displaced", out_displaced)


def check_delta(bound: Bound, delta: Tensor) -> None:
    expected = f"a contiguous float32 tensor ({bound.num_entries},) on {bound.device}"
    if delta.dtype != torch.float32 or delta.shape != (bound.num_entries,) or delta.device != bound.device:
        raise ValueError(f"delta: expected {expected}, got {delta.dtype} {tuple(delta.shape)} on {delta.device}")
    if not delta.is_contiguous():
        raise ValueError(f"delta: expected {expected}, got stride {delta.stride()}")


def _check_weight(entry: WeightEntry, weight: Tensor, device: torch.device) -> None:
    if tuple(weight.shape) != entry.shape:
        raise BaseMismatch("shape", tensor=entry.name, expected=str(entry.shape), got=str(tuple(weight.shape)))
    if weight.dtype not in DTYPE_NAMES:
        raise ValueError(f"{entry.name}: expected one of {', '.join(DTYPE_NAMES.values())}, got {weight.dtype}")
    if not weight.is_contiguous():
        raise ValueError(f"{entry.name}: expected a contiguous weight, got stride {weight.stride()}")
    if weight.device != device:
        raise ValueError(f"{entry.name}: expected the index set's device {device}, got {weight.device}")


def _check_index_tensors(index_set: IndexSet) -> None:
    indices, offsets = index_set.indices, index_set.offsets
    if indices.dtype != torch.uint16 or indices.dim() != 1 or not indices.is_contiguous():
        raise ValueError(f"indices: expected contiguous uint16 (n,), got {indices.dtype} {tuple(indices.shape)}")
    fault = offsets_fault(index_set.table, offsets, indices.numel())
    if fault is not None:
        raise ValueError(f"{fault.check}: expected {fault.expected}, got {fault.got}")
    _check_last_blocks(index_set)


def _check_last_blocks(index_set: IndexSet) -> None:
    """Only a weight's last block can be shorter than what 16 bits reach, so only there can an index lead outside."""
    offsets = index_set.offsets.cpu()
    short = [entry for entry in index_set.table if entry.numel % BLOCK_ELEMENTS]
    ends = torch.tensor([entry.end_block for entry in short], dtype=torch.int64)
    ranges = torch.stack([offsets[ends - 1], offsets[ends]], dim=1).tolist()
    filled = [(entry, start, end) for entry, (start, end) in zip(short, ranges, strict=True) if end > start]
    if not filled:
        return
    words = index_set.indices.view(torch.int16)
    local = torch.cat([words[start:end] for _, start, end in filled]).cpu().numpy().view(np.uint16)
    starts = np.cumsum([0, *(end - start for _, start, end in filled[:-1])])
    for (entry, _, _), highest in zip(filled, np.maximum.reduceat(local, starts).tolist(), strict=True):
        limit = entry.numel % BLOCK_ELEMENTS
        if highest >= limit:
            where = f"the last block of {entry.name}"
            raise ValueError(f"indices: expected below {limit} in {where}, got {highest}")


def _check_disjoint(index_set: IndexSet, weights: Sequence[Tensor]) -> None:
    if _ranges_overlap(weights):
        names = ", ".join(entry.name for entry in index_set.table)
        raise ValueError(f"weights: expected each in memory of its own, got shared memory among {names[:200]}")


def _ranges_overlap(tensors: Sequence[Tensor]) -> bool:
    ranges = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors if t.numel())
    return any(end > start for (_, end), (start, _) in pairwise(ranges))


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // 4) * 4
