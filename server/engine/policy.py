"""Which blend runs next. Pure: a function of what waits and what ran, no clock, no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A blend whose bytes are resident and that has something to run.

    ``waiting_since`` is the number of the step after which it last ran, or before which it became ready."""

    key: BlendKey
    waiting_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantum:
    """The blend in the weights, and for how many steps in a row it has run."""

    key: BlendKey
    num_steps: int


def choose(candidates: Sequence[Candidate], current: Quantum | None, *, quantum_steps: int) -> BlendKey | None:
    """The current blend until its quantum is used up, then the one that has waited longest (the first of equals);
    None if there is none.

    With n candidates a blend waits for at most (n - 1) * quantum_steps steps: each that runs before it goes behind it.
    """
    if not candidates:
        return None
    keys = {candidate.key for candidate in candidates}
    if current is not None and current.key in keys and (len(keys) == 1 or current.num_steps < quantum_steps):
        return current.key
    others = [c for c in candidates if current is None or c.key != current.key] or list(candidates)
    return min(others, key=lambda candidate: candidate.waiting_since).key
