"""What one step does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from server.core.steps import Work
from server.engine.batch import Share
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.blend import Blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The blend in the weights, those beside it, and each sequence's tokens."""

    blend: Blend
    beside: tuple[Blend, ...]
    shares: tuple[Share, ...]

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for sequence, _ in self.shares]

    @property
    def work(self) -> list[Work]:
        return [Work(id=sequence.id, num_tokens=num_tokens) for sequence, num_tokens in self.shares]

    @property
    def is_mixed(self) -> bool:
        return any(self.is_beside(sequence) for sequence in self.sequences)

    @property
    def is_decode(self) -> bool:
        return all(num_tokens == 1 for _, num_tokens in self.shares)

    def is_beside(self, sequence: Sequence) -> bool:
        """It runs mixed."""
        return sequence.request.blend.key != self.blend.key

    def without(self, gone: Collection[Sequence]) -> Plan:
        return replace(self, shares=tuple(share for share in self.shares if share[0] not in gone)) if gone else self
