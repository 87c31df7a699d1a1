"""Our own steps without HTTP and without a scheduler: what the runner itself takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter

from adapters_store.blend import BASE
from server.bench_serve.workload import Arrival
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence, Work
from server.runners.loading import load_llm
from server.stack import InMemory, build_stack

BUDGET_BYTES = 1024**3


class OwnSteps:
    """The base alone. Each batch begins when the one before has ended, as with ``generate``."""

    def __init__(self, model_dir: Path) -> None:
        loaded = load_llm(model_dir)
        stack = build_stack(loaded, InMemory(), device_budget_bytes=0, kv_budget_bytes=BUDGET_BYTES)
        self._runner, self._codec = stack.runner, stack.codec
        self._numbers = count()

    def run_batch(self, requests: Sequence[Arrival]) -> Mapping[str, float]:
        """``decode_s``: from the first token on; ``num_decoded``: how many tokens were drawn in that time."""
        remaining: dict[RequestId, int] = {}
        prefill = []
        for request in requests:
            new = NewSequence(
                id=RequestId(str(next(self._numbers))),
                tenant="bench",
                blend=BASE,
                prompt_tokens=self._codec.encode(request.prompt),
                sampling=Sampling(),
                max_new_tokens=request.num_new_tokens,
            )
            reused = self._runner.begin(new)
            prefill.append(Work(id=new.id, num_tokens=len(new.prompt_tokens) - reused.num_tokens))
            remaining[new.id] = request.num_new_tokens - 1
        self._runner.step(prefill)
        started_s, num_decoded = perf_counter(), sum(remaining.values())
        while running := [sequence for sequence, left in remaining.items() if left]:
            self._runner.step([Work(id=sequence) for sequence in running])
            for sequence in running:
                remaining[sequence] -= 1
        self._runner.drop(remaining)
        return {"decode_s": perf_counter() - started_s, "num_decoded": num_decoded}
