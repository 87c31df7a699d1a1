"""A runner over a real execution, driven by hand: what its sequences have answered so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import torch

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    DTYPE_NAMES,
    Adapter,
    DTypeName,
    build_adapter,
    build_index_set,
    build_table,
    num_blocks,
)
from adapters_store.blend import BASE, Blend, BlendMember
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence, Reused, StepToken, Work
from server.runners.backends import paged_backend, rows_backend
from server.runners.loading import LoadedModel
from server.stack import build_stack
from tests.server.execution.world import Shelf

BackendName = Literal["paged", "rows"]


class Rig:
    def __init__(
        self,
        loaded: LoadedModel,
        backend: BackendName = "rows",
        *,
        kv_budget_bytes: int = 1 << 24,
        shelf: Shelf | None = None,
    ) -> None:
        self.loaded = loaded
        self.shelf = shelf or Shelf()
        stack = build_stack(
            loaded,
            self.shelf,
            device_budget_bytes=1 << 28,
            kv_budget_bytes=kv_budget_bytes,
            pick=paged_backend if backend == "paged" else rows_backend,
        )
        self.codec = stack.codec
        self.execution = stack.execution
        self.runner = stack.runner
        self._mixable = stack.backend.mixable_weights
        self.todo: dict[RequestId, int] = {}
        self.tokens: dict[RequestId, list[int]] = {}
        self.text: dict[RequestId, str] = {}
        self.steps: list[list[StepToken]] = []
        self._new: dict[RequestId, NewSequence] = {}

    def begin(
        self,
        name: str,
        prompt: str | tuple[int, ...],
        blend: Blend = BASE,
        sampling: Sampling | None = None,
        *,
        tenant: str = "default",
        must_be_fused: bool = False,
    ) -> Reused:
        tokens = self.codec.encode(prompt) if isinstance(prompt, str) else prompt
        new = NewSequence(
            id=RequestId(name),
            tenant=tenant,
            blend=blend,
            prompt_tokens=tokens,
            sampling=sampling or Sampling(),
            max_new_tokens=100,
            must_be_fused=must_be_fused,
        )
        self._new[new.id] = new
        self.tokens[new.id] = []
        return self._take_up(new)

    def pause(self, *names: str) -> None:
        self.runner.pause([RequestId(name) for name in names])

    def go_on(self, name: str) -> Reused:
        return self._take_up(self._new[RequestId(name)])

    def step(self, names: Collection[str], *, chunk: int = 1000, active: Blend = BASE) -> list[StepToken]:
        """One step of these sequences over ``active``, each under its own blend, at most ``chunk`` tokens of each."""
        ids = [RequestId(name) for name in names]
        report = self.execution.activate(active, [self._new[request].blend for request in ids])
        assert not report.failed, report.failed
        work = [Work(id=request, num_tokens=min(chunk, self.todo[request])) for request in ids]
        found = self.runner.step(work)
        for item in work:
            self.todo[item.id] -= item.num_tokens
        for token in found:
            assert self.todo[token.id] == 0
            self.todo[token.id] = 1
            self.tokens[token.id].append(token.token)
            self.text[token.id] = self.text.get(token.id, "") + token.text
        return found

    def run(self, names: Iterable[str], *, steps: int, active: Blend = BASE) -> None:
        names = list(names)
        for _ in range(steps):
            self.step(names, active=active)

    def answer(self, name: str) -> list[int]:
        return self.tokens[RequestId(name)]

    def blend(self, *seeds: int, scale: float = 1.0, share: float = 0.1) -> Blend:
        """Random adapters over every linear weight, as wide as the weights themselves."""
        adapters = [random_adapter(self.loaded, seed, self._mixable, share=share) for seed in seeds]
        for adapter in adapters:
            self.shelf.add(adapter)
        return Blend(members=tuple(BlendMember(version=adapter.version, scale=scale) for adapter in adapters))

    def _take_up(self, new: NewSequence) -> Reused:
        reused = self.runner.begin(new)
        self.todo[new.id] = len(new.prompt_tokens) + len(self.tokens[new.id]) - reused.num_tokens
        return reused


def random_adapter(loaded: LoadedModel, seed: int, names: Collection[str], *, share: float = 0.1) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    rows: list[tuple[str, tuple[int, ...], DTypeName, int]] = []
    indices, per_block, values = [], [], []
    for name in sorted(names):
        entry = loaded.weights.description.weights[name]
        numel = torch.Size(entry.shape).numel()
        count = max(1, int(numel * share))
        flat = torch.randperm(numel, generator=generator)[:count].sort().values
        rows.append((name, entry.shape, DTYPE_NAMES[loaded.model.get_parameter(name).dtype], count))
        indices.append((flat % BLOCK_ELEMENTS).to(torch.uint16))
        per_block.append(torch.bincount(flat // BLOCK_ELEMENTS, minlength=num_blocks(numel)))
        spread = float(loaded.model.get_parameter(name).float().std())
        values.append(torch.randn(count, generator=generator) * spread)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(per_block).cumsum(0)])
    index_set = build_index_set(build_table(rows), offsets, torch.cat(indices))
    return build_adapter(base=loaded.weights.fingerprint, index_set=index_set, values=torch.cat(values))
