"""What the runner needs of a model: forwards over ragged rows of tokens, and the KV memory behind them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from torch import Tensor

from adapters_store.blend import BlendKey
from adapters_store.kernels import RowGroup, RowTargets
from server.core.requests import Mode, RequestId
from server.core.steps import Reused

PATCHED_TOKENS = 16  # a prompt's rows share one patched copy of each weight from so many on


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A sequence that starts, or goes on after its KV was freed. ``tokens``: all that are known."""

    id: RequestId
    tenant: str
    blend_key: BlendKey
    tokens: Sequence[int]
    must_be_fused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Consecutive tokens of one sequence in a step: ``tokens`` at positions ``start`` … of it, whose KV follows what
    it has. ``targets``: what they run with instead of the plain weights. ``samples``: the logits of the last one are
    wanted."""

    id: RequestId
    tokens: Sequence[int]
    start: int
    targets: RowTargets | None
    samples: bool

    @property
    def mode(self) -> Mode:
        return "fused" if self.targets is None else "mixed"


class Backend(Protocol):
    """Owns the KV memory. Engine thread only."""

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens of one sequence when it is alone."""
        ...

    @property
    def mixable_weights(self) -> frozenset[str]:
        """The weights that ``targets`` of a span may touch; blends that touch others can only run fused."""
        ...

    def fits(self, lengths: Sequence[int]) -> bool:
        """True if sequences of these lengths have room at once."""
        ...

    def begin(self, sequence: Beginning) -> Reused: ...

    def forward(self, spans: Sequence[Span]) -> Tensor:
        """Runs all of it; float32 (spans that sample, vocabulary), in the order of the spans."""
        ...

    @property
    def kv_bytes(self) -> int:
        """KV memory in use. Any thread."""
        ...

    @property
    def kv_budget_bytes(self) -> int:
        """KV memory there is."""
        ...

    def describe(self) -> dict[str, Any]:
        """The KV memory, as plain JSON values."""
        ...

    def release(self, ids: Collection[RequestId]) -> None:
        """Frees the KV of these sequences. Unknown ids are ignored."""
        ...


def row_groups(spans: Sequence[Span], *, patches: bool) -> list[RowGroup]:
    """The rows of spans that lie one behind the other: neighbours with the same targets run together, long prompts
    of mixed blends over a patched copy of the weights where the model's products allow it."""

    def kind(span: Span) -> tuple[RowTargets | None, bool]:
        return span.targets, patches and span.targets is not None and len(span.tokens) >= PATCHED_TOKENS

    groups, row = [], 0
    for (targets, is_patched), members in groupby(spans, key=kind):
        stop = row + sum(len(span.tokens) for span in members)
        groups.append(RowGroup(start=row, stop=stop, targets=targets, is_patched=is_patched))
        row = stop
    return groups
