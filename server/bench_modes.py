"""``shira bench modes``: how far the logits of fused and mixed execution lie apart, and what the batch does to them.

Every way of running computes the same adapter over the same text, a prompt and then token by token. The way it is
compared with is the fused one alone in its batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.format import read_adapter
from server.core.requests import RequestId
from server.runners.backend import Beginning, Span
from server.runners.backends import pick_backend, rows_backend
from server.runners.checkpoint import DTypeChoice
from server.runners.loading import LoadedModel, load_llm
from server.stack import InMemory, PickBackend, Stack, build_stack

TEXT = (
    "In the morning the keeper of the house opened every window, counted the letters on the table, and wrote down who "
    "had come and who had gone. A guest may move the chairs, she said, as long as each of them stands where it stood "
    "before when he leaves; nobody should be able to tell from the room alone that there ever was a guest."
)
NUM_PROMPT_TOKENS = 16
BUDGET_BYTES = 1 << 30
NUM_NEIGHBOURS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRow:
    """Against the fused run alone: differences of logits, and the share of positions whose likeliest token is the
    same."""

    dtype: str
    way: str
    max_difference: float
    mean_difference: float
    same_greedy: float


def run(model_dir: Path, adapter_files: Sequence[Path], *, as_json: bool) -> list[ModeRow]:
    """The first adapter is measured; the others, if any, are its neighbours and may be in the weights."""
    dtypes: tuple[DTypeChoice, ...] = ("float32", "bfloat16")
    rows = [row for dtype in dtypes for row in _rows(load_llm(model_dir, dtype=dtype), adapter_files, dtype)]
    print(json.dumps([asdict(row) for row in rows]) if as_json else _render(rows))
    return rows


def _rows(loaded: LoadedModel, files: Sequence[Path], dtype: str) -> list[ModeRow]:
    adapters = [read_adapter(file, base=loaded.weights.description).adapter for file in files]
    blends = [Blend(members=(BlendMember(version=adapter.version, scale=1.0),)) for adapter in adapters]
    mine, other = blends[0], blends[-1]
    source = InMemory(*adapters)

    def stack(pick: PickBackend) -> Stack:
        return build_stack(loaded, source, device_budget_bytes=BUDGET_BYTES, kv_budget_bytes=BUDGET_BYTES, pick=pick)

    fast, plain = stack(pick_backend), stack(rows_backend)
    neighbours = [BASE, *blends] * NUM_NEIGHBOURS
    ways: list[tuple[str, Callable[[], Tensor]]] = [
        ("fused, 8 rows", lambda: _logits(fast, mine, active=mine, beside=[mine] * NUM_NEIGHBOURS)),
        ("mixed over the base, alone", lambda: _logits(fast, mine, active=BASE)),
        ("mixed over the base, 8 rows", lambda: _logits(fast, mine, active=BASE, beside=neighbours[:NUM_NEIGHBOURS])),
        ("transformers' forward, fused, alone", lambda: _logits(plain, mine, active=mine)),
        ("transformers' forward, fused, 8 rows", lambda: _logits(plain, mine, mine, [mine] * NUM_NEIGHBOURS)),
        ("transformers' forward, mixed, alone", lambda: _logits(plain, mine, active=BASE)),
    ]
    if other.key != mine.key:
        ways.insert(3, ("mixed over another adapter, alone", lambda: _logits(fast, mine, active=other)))
    expected = _logits(fast, mine, active=mine)
    rows = []
    for way, logits in ways:
        found = logits()
        difference = (found - expected).abs()
        rows.append(
            ModeRow(
                dtype=dtype,
                way=way,
                max_difference=float(difference.max()),
                mean_difference=float(difference.mean()),
                same_greedy=float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
            )
        )
    return rows


@torch.inference_mode()
def _logits(stack: Stack, blend: Blend, active: Blend, beside: Sequence[Blend] = ()) -> Tensor:
    """(positions, vocabulary) float32: after the prompt and after each token behind it, ``beside`` rows of the same
    text under other blends."""
    blends = [blend, *beside]
    report = stack.execution.activate(active, blends)
    if report.failed:
        raise next(iter(report.failed.values()))
    tokens = stack.codec.encode(TEXT)
    ids = [RequestId(f"row-{number}") for number in range(len(blends))]
    for request, each in zip(ids, blends, strict=True):
        stack.backend.begin(
            Beginning(id=request, tenant=request, blend_key=each.key, tokens=tokens[:1], must_be_fused=False)
        )
    found = []
    for start, stop in [(0, NUM_PROMPT_TOKENS), *((at, at + 1) for at in range(NUM_PROMPT_TOKENS, len(tokens)))]:
        spans = [
            Span(
                id=request,
                tokens=tokens[start:stop],
                start=start,
                targets=stack.execution.targets(each.key),
                samples=True,
            )
            for request, each in zip(ids, blends, strict=True)
        ]
        found.append(stack.backend.forward(spans)[0])
    stack.backend.release(ids)
    stack.execution.restore()
    return torch.stack(found)


def _render(rows: Sequence[ModeRow]) -> str:
    lines = [f"{'':10}{'against fused, alone':40}{'max |Δ|':>10}{'mean |Δ|':>10}{'same greedy':>13}"]
    lines += [
        f"{row.dtype:10}{row.way:40}{row.max_difference:10.2g}{row.mean_difference:10.2g}{row.same_greedy:12.1%}"
        for row in rows
    ]
    return "\n".join(lines)
