"""A few measured steps when the server starts: what the policy weighs keeping, switching and mixing by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from time import perf_counter

import torch

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    DTYPE_NAMES,
    Adapter,
    build_adapter,
    build_index_set,
    build_table,
    num_blocks,
)
from adapters_store.blend import BASE, Blend, BlendMember
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence, Work
from server.engine.cost import CostModel
from server.runners.backend import PATCHED_TOKENS, Backend
from server.runners.loading import LoadedModel
from server.stack import InMemory, Stack, build_stack

log = logging.getLogger(__name__)

SHARE = 0.01  # of each weight, as adapters usually have
BUDGET_BYTES = 1 << 40  # for one adapter, for a moment
NUM_REPEATS = 5  # of which the shortest counts: what else the machine does is no cost of ours
DECODE_ROWS = (1, 8, 32)
CHUNK_TOKENS = (64, 256)
NUM_GROUPS = 4
MAX_SECONDS = 15.0  # larger steps are left out then


def calibrate(loaded: LoadedModel, backend: Backend) -> CostModel:
    """Runs plain and mixed steps, and switches, with random adapters whose deltas are 0. Leaves the base in the
    weights and no sequence in the KV memory. On the thread that owns the weights, before anyone else does.

    Where it fails (for want of memory, say) the figures are the built-in ones: they decide about speed alone."""
    started = perf_counter()
    probe = _Probe(loaded, backend)
    try:
        costs = _measure(probe, loaded, backend)
    except Exception:
        log.warning("calibration failed; the policy goes by built-in figures", exc_info=True)
        costs = CostModel()
    finally:
        probe.clear()
    log.info("calibrated in %.1f s: %s", perf_counter() - started, costs)
    return costs


def _measure(probe: _Probe, loaded: LoadedModel, backend: Backend) -> CostModel:
    started = perf_counter()
    points = [(rows, probe.decode_s([BASE] * rows)) for rows in DECODE_ROWS if backend.fits([1 + NUM_REPEATS] * rows)]
    for num_tokens in CHUNK_TOKENS:
        is_possible = num_tokens <= loaded.max_context_tokens and backend.fits([num_tokens])
        if is_possible and perf_counter() - started < MAX_SECONDS:
            points.append((num_tokens, probe.prefill_s(BASE, num_tokens)))
    costs = CostModel(step_points=_rising(points)) if points else CostModel()
    can_mix = backend.mixable_weights and backend.fits([1 + NUM_REPEATS] * NUM_GROUPS)
    return probe.with_mixed_figures(costs) if can_mix else costs


class _Probe:
    """Sequences of one token over a stack of its own on the same weights and KV memory."""

    def __init__(self, loaded: LoadedModel, backend: Backend) -> None:
        self._source = InMemory()
        self._stack: Stack = build_stack(
            loaded,
            self._source,
            device_budget_bytes=BUDGET_BYTES,
            kv_budget_bytes=0,  # the backend has its memory
            pick=lambda *_: backend,
        )
        self._names = (f"calibration-{number}" for number in count())
        self._begun: list[RequestId] = []

    def clear(self) -> None:
        self._stack.runner.drop(self._begun)
        self._stack.execution.restore()

    def decode_s(self, blends: Sequence[Blend]) -> float:
        """Seconds of a step of one row per blend, over the base."""
        rows = [self._begin(blend, 1) for blend in blends]
        self._stack.execution.activate(BASE, blends)
        return self._shortest_s(lambda: self._stack.runner.step([Work(id=row) for row in rows]), rows)

    def prefill_s(self, blend: Blend, num_tokens: int) -> float:
        """Seconds of a step of one prompt, over the base."""
        self._stack.execution.activate(BASE, [blend])
        return min(self._one_prefill_s(blend, num_tokens) for _ in range(NUM_REPEATS))

    def with_mixed_figures(self, costs: CostModel) -> CostModel:
        adapter = random_adapter(self._stack.loaded, self._stack.backend.mixable_weights)
        self._source.add(adapter)
        num_entries = adapter.index_set.num_entries
        blends = [
            Blend(members=(BlendMember(version=adapter.version, scale=1 + number),)) for number in range(NUM_GROUPS)
        ]
        switches_s = list(self._switches_s(blends[0]))
        relate_s = self._relate_s(blends[0])
        correction_s = self.decode_s(blends) - self.decode_s([BASE] * NUM_GROUPS)
        patch_s = self.prefill_s(blends[0], PATCHED_TOKENS) - self.prefill_s(BASE, PATCHED_TOKENS)
        return replace(
            costs,
            switch_entry_s=min(switches_s) / num_entries,
            relate_entry_s=relate_s / num_entries / 2,
            correction_s=max(0.0, correction_s) / NUM_GROUPS / num_entries,
            patch_s=max(0.0, patch_s),
        )

    def _switches_s(self, blend: Blend) -> Iterator[float]:
        self._stack.execution.activate(blend)  # stages it
        for number in range(NUM_REPEATS):
            started = perf_counter()
            self._stack.execution.activate(blend if number % 2 else BASE)
            yield perf_counter() - started

    def _relate_s(self, blend: Blend) -> float:
        """The first time that another adapter's targets beside ``blend`` are needed, and its first step."""
        adapter = random_adapter(self._stack.loaded, self._stack.backend.mixable_weights, seed=1)
        self._source.add(adapter)
        other = Blend(members=(BlendMember(version=adapter.version, scale=1.0),))
        self._stack.execution.activate(other)  # stages it
        self._stack.execution.activate(blend)
        row = self._begin(other, 1)
        seconds = []
        for _ in range(2):
            started = perf_counter()
            self._stack.execution.activate(blend, [other])
            self._stack.runner.step([Work(id=row)])
            seconds.append(perf_counter() - started)
        self._stack.runner.drop([row])
        return max(0.0, seconds[0] - seconds[1])

    def _one_prefill_s(self, blend: Blend, num_tokens: int) -> float:
        row = self._begin(blend, num_tokens)
        started = perf_counter()
        self._stack.runner.step([Work(id=row, num_tokens=num_tokens)])
        elapsed_s = perf_counter() - started
        self._stack.runner.drop([row])
        return elapsed_s

    def _shortest_s(self, step: Callable[[], object], rows: Sequence[RequestId]) -> float:
        seconds = []
        for _ in range(NUM_REPEATS):
            started = perf_counter()
            step()
            seconds.append(perf_counter() - started)
        self._stack.runner.drop(rows)
        return min(seconds)

    def _begin(self, blend: Blend, num_tokens: int) -> RequestId:
        name = next(self._names)
        new = NewSequence(
            id=RequestId(name),
            tenant=name,  # so that it reuses nothing
            blend=blend,
            prompt_tokens=(0,) * num_tokens,
            sampling=Sampling(),
            max_new_tokens=NUM_REPEATS,
        )
        self._begun.append(new.id)
        self._stack.runner.begin(new)
        return new.id


def random_adapter(loaded: LoadedModel, names: frozenset[str], *, seed: int = 0) -> Adapter:
    """``SHARE`` of each storage's elements, evenly spread at random, all deltas 0."""
    generator = torch.Generator().manual_seed(seed)
    rows, indices, per_block = [], [], []
    for weight in loaded.weights.weights:
        if weight.name in names:
            gaps = torch.randint(1, round(2 / SHARE), (int(weight.tensor.numel() * SHARE) + 1,), generator=generator)
            flat = gaps.cumsum(0) - 1
            flat = flat[flat < weight.tensor.numel()]
            rows.append((weight.name, tuple(weight.tensor.shape), DTYPE_NAMES[weight.tensor.dtype], len(flat)))
            indices.append((flat % BLOCK_ELEMENTS).to(torch.uint16))
            per_block.append(torch.bincount(flat // BLOCK_ELEMENTS, minlength=num_blocks(weight.tensor.numel())))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(per_block).cumsum(0)])
    index_set = build_index_set(build_table(rows), offsets, torch.cat(indices))
    values = torch.zeros(index_set.num_entries, dtype=torch.bfloat16)
    return build_adapter(base=loaded.weights.fingerprint, index_set=index_set, values=values)


def _rising(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """A step of more tokens never takes less: what a noisy machine measured otherwise is raised to the one before."""
    best, rising = 0.0, []
    for num_tokens, seconds in points:
        best = max(best, seconds)
        rising.append((num_tokens, best))
    return tuple(rising)
