"""Which blends run beside the one in the weights: those that the slowdown allows and the device has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.engine.cost import CostModel
from server.engine.rows import Rows

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey

STAY_STEPS = 64  # a blend that comes back is staged again, which takes about as long as a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The blends that run beside while there is no room for all, and for how many steps they have."""

    keys: frozenset[BlendKey] = frozenset()
    num_steps: int = 0


NOBODYS_TURN = Turn()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """``max_slowdown``: a mixed step takes at most so many times the plain step of the same rows. ``room``: blends that
    the device could hold beside another when it last ran out of room; None if it never did."""

    max_slowdown: float
    room: int | None


def choose_beside(
    rows: Sequence[Rows],
    key: BlendKey,
    active_entries: int,
    first: BlendKey | None,
    turn: Turn,
    *,
    costs: CostModel,
    bounds: Bounds,
) -> tuple[tuple[BlendKey, ...], Turn]:
    """``first`` before all others; then, where room is short, those whose turn it is; then those that ran longest ago.

    At the end of a turn one more blend than there was room for is tried: the device may have become emptier."""
    is_turn = bounds.room is not None and turn.num_steps < STAY_STEPS
    most = len(rows) if bounds.room is None else bounds.room + (not is_turn)
    num_tokens = sum(part.num_tokens for part in rows if part.key == key)
    beside: dict[BlendKey, None] = {}
    extra_s = 0.0
    parts = [part for part in rows if part.key != key and not part.is_exclusive]
    parts.sort(key=lambda part: (part.key != first, is_turn and part.key not in turn.keys, part.last_ran))
    for part in parts:
        if len(beside) >= most:
            break
        more_s = extra_s + extra_step_s(part, active_entries, costs)
        plain_s = costs.step(num_tokens + part.num_tokens)
        must_run = part.key == first or not num_tokens  # else nothing would run
        if must_run or plain_s + more_s <= bounds.max_slowdown * plain_s:
            beside[part.key] = None
            extra_s = more_s
            num_tokens += part.num_tokens
    return tuple(beside), Turn(keys=frozenset(beside), num_steps=turn.num_steps + 1 if is_turn else 0)


def extra_step_s(part: Rows, active_entries: int, costs: CostModel) -> float:
    """What rows cost beyond the plain product: their targets cover their own entries and those that are in."""
    patch_s = costs.patch_s if part.num_prefill else 0.0
    return costs.correct(part.num_entries + active_entries, part.num_decode) + patch_s
