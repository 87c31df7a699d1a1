"""The kernels for CUDA: one launch for the whole model and word width. Scans and unions run in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton.language as tl
from torch import Tensor

from adapters_store.kernels import triton_passes as passes
from adapters_store.kernels.bound import (
    DTYPE_CODES,
    VISIT_COLUMNS,
    Bound,
    check_delta,
    check_exchange,
    check_switch,
    check_words,
    new_words,
)
from adapters_store.kernels.interface import Journal, Staging
from adapters_store.kernels.pairs import pair_visits
from adapters_store.kernels.reference import ReferenceKernels

CONSTANTS = {"chunk": 1024, "enable_fp_fusion": False}  # entries a program moves at a time; sums round as written
COUNT, DTYPE = 3, 5  # columns of a visit
IS_WIDE = DTYPE_CODES[torch.float32]

Launch = Callable[[Tensor, Any], None]  # rows of one word width, and that width's type


class TritonKernels(ReferenceKernels):
    """Satisfies Kernels for CUDA tensors. Writes are in order on the current stream; only ``stage`` waits for it."""

    name = "triton"

    def __init__(self) -> None:
        self._visits: WeakKeyDictionary[Bound, Tensor] = WeakKeyDictionary()
        self._pairs: WeakKeyDictionary[Bound, WeakKeyDictionary[Bound, Tensor]] = WeakKeyDictionary()

    def stage(self, bound: Bound, delta: Tensor) -> Staging:
        check_delta(bound, delta)
        words = new_words(bound)
        num_lost = torch.zeros(1, dtype=torch.int32, device=bound.device)
        visits = self._visits_of(bound)
        for code in DTYPE_CODES.values():
            rows = visits[bound.visits[:, DTYPE].to(visits.device) == code].contiguous()
            if len(rows):
                word_t = tl.int32 if code == IS_WIDE else tl.int16
                passes.stage_pass[(len(rows),)](
                    rows, _signed(bound), delta, words, num_lost, word_t=word_t, dtype=code, **CONSTANTS
                )
        return Staging(words=words, num_out_of_range=int(num_lost))

    def exchange(self, bound: Bound, words: Tensor, displaced: Tensor, journal: Journal | None = None) -> None:
        check_exchange(bound, words, displaced)

        def launch(rows: Tensor, word_t: Any) -> None:
            passes.exchange_pass[(len(rows),)](rows, _signed(bound), words, displaced, word_t=word_t, **CONSTANTS)

        self._write(self._visits_of(bound), launch, bound, displaced, journal)

    def overwrite(self, bound: Bound, words: Tensor) -> None:
        check_words(bound, "words", words)
        for rows, word_t in _by_width(self._visits_of(bound)):
            self._overwrite_rows(rows, word_t, bound, words)

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
        check_switch(out, out_displaced, into, into_words, into_displaced)

        def launch(rows: Tensor, word_t: Any) -> None:
            passes.switch_pass[(len(rows),)](
                rows,
                _signed(out),
                out_displaced,
                _signed(into),
                into_words,
                into_displaced,
                word_t=word_t,
                **CONSTANTS,
            )

        self._write(self._pairs_of(out, into), launch, into, into_displaced, journal)

    def _write(self, table: Tensor, launch: Launch, into: Bound, displaced: Tensor, journal: Journal | None) -> None:
        """A launch that raises has written nothing; those before it are undone here, so the journal tells the truth."""
        done: list[tuple[Tensor, Any]] = []
        for rows, word_t in _by_width(table):
            try:
                launch(rows, word_t)
            except BaseException:
                for done_rows, done_word_t in done:
                    own = done_rows[:, -VISIT_COLUMNS:].contiguous()
                    self._overwrite_rows(own[own[:, COUNT] > 0], done_word_t, into, displaced)
                raise
            done.append((rows, word_t))
        if journal is not None:
            journal.num_weights_displaced = into.num_weights

    def _overwrite_rows(self, rows: Tensor, word_t: Any, bound: Bound, words: Tensor) -> None:
        passes.overwrite_pass[(len(rows),)](rows, _signed(bound), words, word_t=word_t, **CONSTANTS)

    def _visits_of(self, bound: Bound) -> Tensor:
        if bound not in self._visits:
            self._visits[bound] = bound.visits.to(bound.device)
        return self._visits[bound]

    def _pairs_of(self, out: Bound, into: Bound) -> Tensor:
        """int64 (num_blocks, 12): see switch_pass. Made once for each pair of bound index sets that lives."""
        known = self._pairs.setdefault(out, WeakKeyDictionary())
        if into not in known:
            known[into] = pair_visits(out.visits, into.visits).to(into.device)
        return known[into]


def _by_width(rows: Tensor) -> list[tuple[Tensor, Any]]:
    """Rows with 4-byte and with 2-byte words, each with its Triton type; none that is empty."""
    is_wide = rows[:, DTYPE] == IS_WIDE
    split = ((rows[is_wide], tl.int32), (rows[~is_wide], tl.int16))
    return [(part.contiguous(), word_t) for part, word_t in split if len(part)]


def _signed(bound: Bound) -> Tensor:
    return bound.index_set.indices.view(torch.int16)
