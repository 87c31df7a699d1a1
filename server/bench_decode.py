"""``shira bench decode``: what a fused adapter costs per token, against the base, interleaved in one process."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.format import read_adapter
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence, Work
from server.runners.llm import LlmRunner
from server.runners.loading import LoadedModel
from server.stack import InMemory, build_stack

PROMPT = "In the beginning of the year"
BUDGET_BYTES = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeReport:
    """Medians over rounds; ``ratio`` is the median of each round's fused / base."""

    base_tokens_per_s: float
    fused_tokens_per_s: float
    ratio: float
    batch: int
    num_tokens: int
    num_rounds: int


def run(
    loaded: LoadedModel, adapter_file: Path, *, batch: int, num_tokens: int, num_rounds: int, as_json: bool
) -> DecodeReport:
    """Each round decodes ``num_tokens`` per row with the base and with the adapter, in alternating order."""
    adapter = read_adapter(adapter_file, base=loaded.weights.description).adapter
    stack = build_stack(loaded, InMemory(adapter), device_budget_bytes=BUDGET_BYTES, kv_budget_bytes=BUDGET_BYTES)
    prompt = stack.codec.encode(PROMPT)
    fused = Blend(members=(BlendMember(version=adapter.version, scale=1.0),))
    seconds: dict[str, list[float]] = {BASE.key: [], fused.key: []}
    for number in range(-1, num_rounds):  # the first round warms up
        for blend in (BASE, fused) if number % 2 else (fused, BASE):
            stack.execution.activate(blend)
            elapsed_s = _decode(stack.runner, blend, prompt, batch=batch, num_tokens=num_tokens)
            if number >= 0:
                seconds[blend.key].append(elapsed_s)
    stack.execution.restore()
    report = DecodeReport(
        base_tokens_per_s=batch * num_tokens / statistics.median(seconds[BASE.key]),
        fused_tokens_per_s=batch * num_tokens / statistics.median(seconds[fused.key]),
        ratio=statistics.median(b / f for b, f in zip(seconds[BASE.key], seconds[fused.key], strict=True)),
        batch=batch,
        num_tokens=num_tokens,
        num_rounds=num_rounds,
    )
    print(json.dumps(asdict(report)) if as_json else _render(report))
    return report


def _decode(runner: LlmRunner, blend: Blend, prompt: tuple[int, ...], *, batch: int, num_tokens: int) -> float:
    """Seconds of the decode steps alone."""
    ids = [RequestId(f"row-{row}") for row in range(batch)]
    work = []
    for request in ids:
        new = NewSequence(
            id=request,
            tenant="bench",
            blend=blend,
            prompt_tokens=prompt,
            sampling=Sampling(),
            max_new_tokens=num_tokens + 1,
        )
        reused = runner.begin(new)
        work.append(Work(id=request, num_tokens=len(prompt) - reused.num_tokens))
    runner.step(work)
    started = perf_counter()
    for _ in range(num_tokens):
        runner.step([Work(id=request) for request in ids])
    elapsed_s = perf_counter() - started
    runner.drop(ids)
    return elapsed_s


def _render(report: DecodeReport) -> str:
    return (
        f"decode, batch {report.batch}, {report.num_tokens} tokens a row, {report.num_rounds} interleaved rounds\n"
        f"  base            {report.base_tokens_per_s:8.1f} tokens/s\n"
        f"  adapter fused   {report.fused_tokens_per_s:8.1f} tokens/s\n"
        f"  ratio           {report.ratio:8.3f}"
    )
