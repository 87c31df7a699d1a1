"""Which blend is in the weights for the next step, and which run beside it. Pure: no clock, no state of its own.

Rows are of two kinds. *Exclusive* ones run only while their blend is in the weights: the request said so, or the
blend cannot be mixed. The others can run in any step, *mixed* if another blend is in the weights.

- One blend: it goes in, every step is a plain one.
- Exclusive rows: their blends take turns in the weights, a quantum of steps each. The next turn is for the client that
  was given least by its weight. What can be mixed runs beside them, or where it cannot, beside a blend that cannot be
  mixed itself, takes a turn of its own.
- None: the blend goes in with which the step is shortest, but only once the time lost by not having it in adds up to
  what the switch costs. Lost time and switches together are thus at most twice the lost time of never switching,
  whatever arrives (the ski rental rule), and blends that alternate quickly are mixed.
- Where mixing everything takes longer than running the blends one after another, all rows count as exclusive.

Who runs beside what is in: ``neighbours``. A mixed step takes at most ``max_slowdown`` times the plain step of the same
rows: blends beyond that wait for the next one, those that ran longest ago going first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from server.engine.cost import CostModel
from server.engine.neighbours import NOBODYS_TURN, Bounds, Turn, choose_beside, extra_step_s
from server.engine.rows import Rows

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey

Schedule = Literal["auto", "fused", "mixed"]
Claim = tuple[float, int]  # service so far, then when it was in last: see ``Rows``

RELATED_STEPS = 64
NUM_DOMINANT = 2  # of the blends with most to correct, so many are thought of for the weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``schedule``: ``fused`` never mixes; ``mixed`` keeps the base in but for exclusive rows; ``auto`` goes by cost.
    ``quantum_steps``: how long a blend stays in while others wait for their turn."""

    schedule: Schedule = "auto"
    quantum_steps: int = 16
    max_slowdown: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """The blend in the weights, for how many steps in a row, and how it is used: what the next choice goes by."""

    key: BlendKey
    num_entries: int = 0
    is_mixable: bool = True
    num_steps: int = 0
    lost_s: float = 0.0  # by not having had a better blend in
    is_mixing: bool = True
    way_lost_s: float = 0.0  # by not having mixed, or not having run the blends one after another
    turn: Turn = NOBODYS_TURN
    related: frozenset[BlendKey] = frozenset()  # the blends that have run beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """``beside`` holds the blends of rows that run mixed; ``stay`` is for the next choice."""

    key: BlendKey
    beside: tuple[BlendKey, ...]
    stay: Stay

    def runs(self, key: BlendKey, is_exclusive: bool) -> bool:
        return key == self.key or (key in self.beside and not is_exclusive)


def choose(
    rows: Sequence[Rows],
    stay: Stay,
    *,
    base: BlendKey,
    first: BlendKey | None,
    costs: CostModel,
    rules: Rules,
    room: int | None = None,
) -> Choice:
    """For at least one ``Rows``; the rows of a blend may come in two parts, exclusive and not. ``room`` as in Bounds.

    ``first`` has waited too long: it runs in this step, or if it must be in the weights, as soon as the quantum of the
    blend that is in now has ended, and from then on for as long as it is ``first``."""
    is_mixing, way_lost_s = _choose_way(rows, stay, base, costs, rules)
    turns = {part.key: _claim(part) for part in rows if part.is_exclusive or not is_mixing}
    others = [part for part in rows if part.key not in turns]
    turn_of_first = first
    if others and not all(part.is_mixable for part in rows):
        shared = _shared_turn(others, stay, base, rules)
        turns[shared] = min(_claim(part) for part in others)
        turn_of_first = shared if first in {part.key for part in others} else first
    lost_s = 0.0
    if turns:
        key = _take_turns(turns, stay, turn_of_first, rules)
    elif rules.schedule == "mixed":
        key = base
    else:
        key, lost_s = _cheapest(rows, stay, base, costs)
    can_mix = is_mixing and all(part.is_mixable for part in rows if part.key == key)
    active_entries = ({stay.key: stay.num_entries} | _entries(rows)).get(key, 0)
    beside: tuple[BlendKey, ...] = ()
    turn = stay.turn
    if can_mix:
        bounds = Bounds(max_slowdown=rules.max_slowdown, room=room)
        beside, turn = choose_beside(rows, key, active_entries, first, stay.turn, costs=costs, bounds=bounds)
    stay = replace(_stay(rows, stay, key), lost_s=lost_s, is_mixing=is_mixing, way_lost_s=way_lost_s, turn=turn)
    stay = replace(stay, related=stay.related.union(beside))
    return Choice(key=key, beside=beside, stay=stay)


def _choose_way(rows: Sequence[Rows], stay: Stay, base: BlendKey, costs: CostModel, rules: Rules) -> tuple[bool, float]:
    """Whether to mix, and the time lost so far by the present way. Here too the other way is taken once that time has
    paid for a switch to each blend, so that it takes more than a few prompts; and at the end of a quantum only, so that
    a turn that was given is had."""
    if rules.schedule != "auto":
        return rules.schedule == "mixed", 0.0
    entries = _entries(rows)
    if len(entries) == 1:
        return stay.is_mixing, stay.way_lost_s
    switches_s = sum(costs.switch(num_entries) for num_entries in entries.values())
    apart_s = sum(costs.step(sum(part.num_tokens for part in rows if part.key == key)) for key in entries)
    apart_s += switches_s / rules.quantum_steps
    together_s = min(_step_s(rows, key, entries, costs) for key in _dominant(rows, stay, base))
    lost_s = max(0.0, stay.way_lost_s + (together_s - apart_s) * (1 if stay.is_mixing else -1))
    is_turn_over = stay.key not in entries or not 0 < stay.num_steps < rules.quantum_steps
    if is_turn_over and lost_s > switches_s:
        return not stay.is_mixing, 0.0
    return stay.is_mixing, lost_s


def _shared_turn(others: Sequence[Rows], stay: Stay, base: BlendKey, rules: Rules) -> BlendKey:
    """Rows that can run together take one turn between them: under what is in if it is theirs, or else under the blend
    with most to correct."""
    if rules.schedule == "mixed":
        return base
    if stay.key in {part.key for part in others}:
        return stay.key
    return max(others, key=lambda part: part.num_entries * part.num_tokens).key


def _claim(part: Rows) -> Claim:
    return part.served, part.last_ran


def _take_turns(claims: dict[BlendKey, Claim], stay: Stay, first: BlendKey | None, rules: Rules) -> BlendKey:
    """The next turn is for the client that was given least, and of its blends for the one that was in longest ago."""
    if stay.key in claims and 0 < stay.num_steps < rules.quantum_steps:
        return stay.key
    if first in claims:
        return first

    def order(key: BlendKey) -> tuple[float, bool, int]:
        served, last_ran = claims[key]
        return served, key == stay.key, last_ran

    return min(claims, key=order)


def _cheapest(rows: Sequence[Rows], stay: Stay, base: BlendKey, costs: CostModel) -> tuple[BlendKey, float]:
    """The blend to have in, and the time lost so far by staying with the present one."""
    entries = _entries(rows) | {stay.key: stay.num_entries, base: 0}
    if len({part.key for part in rows}) == 1:
        return rows[0].key, 0.0
    step_s = {
        key: _step_s(rows, key, entries, costs) + _relate_s(rows, key, entries, stay, costs)
        for key in _dominant(rows, stay, base)
    }
    best = min(step_s, key=step_s.__getitem__)
    if stay.key not in step_s:
        return best, 0.0
    lost_s = stay.lost_s + step_s[stay.key] - step_s[best]
    is_paid = best != stay.key and lost_s > costs.switch(entries[best] + entries[stay.key])
    return (best, 0.0) if is_paid else (stay.key, lost_s)


def _dominant(rows: Sequence[Rows], stay: Stay, base: BlendKey) -> list[BlendKey]:
    """Those worth a thought: what is in, the base, and the blends that would take most correcting."""
    by_weight = sorted(rows, key=lambda part: -part.num_entries * part.num_tokens)
    present = [stay.key] if stay.is_mixable else []
    return list(dict.fromkeys([*present, base, *(part.key for part in by_weight[:NUM_DOMINANT])]))


def _entries(rows: Sequence[Rows]) -> dict[BlendKey, int]:
    return {part.key: part.num_entries for part in rows}


def _step_s(rows: Sequence[Rows], key: BlendKey, entries: dict[BlendKey, int], costs: CostModel) -> float:
    plain_s = costs.step(sum(part.num_tokens for part in rows))
    return plain_s + sum(extra_step_s(part, entries.get(key, 0), costs) for part in rows if part.key != key)


def _relate_s(rows: Sequence[Rows], key: BlendKey, entries: dict[BlendKey, int], stay: Stay, costs: CostModel) -> float:
    """What targets beside this blend cost in the next step: those that are missing where it is in already, else a share
    of all, as it will stay for an answer or two."""
    if not entries.get(key, 0):
        return 0.0
    others = [part for part in rows if part.key != key and part.num_entries]
    if key == stay.key:
        return sum(costs.relate(part.num_entries + entries[key]) for part in others if part.key not in stay.related)
    return sum(costs.relate(part.num_entries + entries[key]) for part in others) / RELATED_STEPS


def _stay(rows: Sequence[Rows], stay: Stay, key: BlendKey) -> Stay:
    if key != stay.key:
        stay = Stay(key=key)
    present = [part for part in rows if part.key == key]
    return Stay(
        key=key,
        num_entries=present[0].num_entries if present else stay.num_entries,
        is_mixable=present[0].is_mixable if present else stay.is_mixable,
        num_steps=stay.num_steps + 1,
        related=stay.related,
    )
