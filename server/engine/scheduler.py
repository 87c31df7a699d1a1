"""Who runs in the next step. Plain data: no clock reads, no threads, no torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Sequence as AnySequence
from dataclasses import replace
from typing import TYPE_CHECKING

from server.core.errors import DeadlineUnreachable, Draining, QueueFull, RequestRejected, ServerError
from server.core.requests import GenerationRequest, RequestId
from server.core.steps import Survey
from server.engine.batch import is_exclusive, rows_of, share_out
from server.engine.cost import CostModel
from server.engine.deadlines import needed_s_if_late
from server.engine.fairness import Ledger
from server.engine.group import Group, Place
from server.engine.limits import Limits
from server.engine.loads import Loads
from server.engine.plan import Plan
from server.engine.policy import Stay, choose
from server.engine.rates import Rates
from server.engine.seats import KvMemory, Seats
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.adapter import Version
    from adapters_store.blend import Blend, BlendKey


class Scheduler:
    """Owns every request from ``add`` to ``remove``. Not thread-safe: the engine thread's."""

    def __init__(self, limits: Limits, *, base: Blend, memory: KvMemory, costs: CostModel | None = None) -> None:
        """``memory`` is the runner."""
        self._limits = limits
        self._base = base
        self._memory = memory
        self._costs = costs or CostModel()
        self._rules = limits.rules
        self._ledger = Ledger()
        self._groups: dict[BlendKey, Group] = {}
        self._by_id: dict[RequestId, Sequence] = {}
        self._loads = Loads(patience_steps=limits.patience_steps, hold_steps=limits.patience_steps + limits.turn_steps)
        self._room: int | None = None  # see neighbours.Bounds
        self._stay = Stay(key=self._base.key)
        self._num_steps = 0
        self._num_arrived = 0
        self.seats = Seats(limits, memory, self._ledger, self._groups)
        self.rates = Rates()
        self.is_draining = False

    @property
    def num_waiting(self) -> int:
        """Those that have not begun. May be read on any thread."""
        return sum(sequence.started_s is None for group in list(self._groups.values()) for sequence in group.waiting)

    @property
    def num_running(self) -> int:
        return len(self.seats.running)

    @property
    def sequences(self) -> list[Sequence]:
        return list(self._by_id.values())

    @property
    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def refusal(self, together: AnySequence[GenerationRequest], now: float) -> ServerError | None:
        """Why these requests cannot all be taken now; None if they can."""
        if self.is_draining:
            return Draining("the server is stopping")
        num_not_running = len(self._by_id) - self.num_running  # parked ones wait as well
        if num_not_running + len(together) > self._limits.max_queue:
            return QueueFull(limit=self._limits.max_queue, retry_after_s=self.retry_after_s())
        refusals = (self._too_long(request) or self._unreachable(request, now) for request in together)
        return next((refusal for refusal in refusals if refusal), None)

    def retry_after_s(self) -> int:
        """When a place in the queue is worth asking for: whole seconds. Any thread."""
        return self.rates.retry_after_s(self.num_waiting)

    def add(self, sequence: Sequence) -> None:
        """Takes a request that ``refusal`` let pass."""
        blend = sequence.request.blend
        group = self._groups.get(blend.key)
        if group is None:
            place: Place = "host" if blend.is_base else "wanted"
            now = self._num_steps
            group = Group(blend=blend, place=place, since=now, last_ran=now, last_in=now)
            self._groups[blend.key] = group
        self._num_arrived += 1
        sequence.order = self._num_arrived
        group.wait(sequence)
        self._by_id[sequence.id] = sequence
        self._ledger.join(sequence)

    def remove(self, sequence: Sequence) -> Blend | None:
        """Ends a request. Returns its blend if nobody else has it and its bytes were asked for, to let them go."""
        del self._by_id[sequence.id]
        self._ledger.leave(sequence)
        if not self._by_id:
            self.rates.idle()
        group = self._groups[sequence.request.blend.key]
        if sequence.is_running:
            self.seats.leave(sequence)
        else:
            group.waiting.remove(sequence)
        if group.running or group.waiting:
            return None
        del self._groups[group.blend.key]
        if group.blend.is_base or group.place == "wanted":
            return None
        self._loads.let_go()
        return group.blend

    # Bytes on the host.

    def to_load(self) -> list[Group]:
        """The groups to ask the loader for now, each for its ``load``."""
        return self._loads.start(self._groups.values(), self._rank, self._num_steps)

    def loading(self, key: BlendKey, load: int) -> Group | None:
        """The group that waits for this load; None if it has gone meanwhile."""
        group = self._groups.get(key)
        return group if group is not None and group.place == "loading" and group.load == load else None

    def loaded(self, group: Group, survey: Survey) -> None:
        """The group's bytes are on the host."""
        group.place = "host"
        group.since = group.last_ran = group.last_in = self._num_steps
        group.survey = survey
        for sequence in group:  # the wait for bytes does not count
            sequence.since = None

    def find_no_room(self, group: Group) -> bool:
        """The load failed because others hold the host memory; its hold is to be released. False if even alone the
        group does not fit."""
        return self._loads.find_no_room(group, self._groups.values(), self._num_steps)

    def give_way(self) -> Blend | None:
        """Takes the bytes from a group for one that has waited for them too long. Returns the blend to let go."""
        group = self._loads.giving_way(self._groups.values(), self._rank, self._num_steps)
        if group is None:
            return None
        self.seats.park(group.running, "bytes")
        group.place, group.since, group.is_closing = "wanted", self._num_steps, False
        self._loads.let_go()
        return group.blend

    # Steps.

    def plan(self, active: Blend) -> Plan | None:
        """The next step, while ``active`` is in the weights; None if nothing can run now."""
        step = self._num_steps + 1
        ready = [group for group in self._groups.values() if group.is_ready]
        self.seats.mark_owed(ready, step)
        self.seats.fill(ready, step)
        stay = self._stay if self._stay.key == active.key else self._new_stay(active)
        while self.seats.running:
            plan, self._stay = self._compose(active, stay)
            if self._fits(plan):
                self._num_steps = step
                return plan
            self.seats.park_least()
        return None

    def ran(self, plan: Plan, sampled: Collection[RequestId], step_s: float, now: float) -> None:
        """The step of ``plan`` was done, and gave these sequences a token."""
        self.rates.ran(step_s, now, max(sequence.request.token_cost for sequence in plan.sequences))
        if self._room is not None:
            num_beside = len({sequence.request.blend.key for sequence in plan.sequences} - {plan.blend.key})
            self._room = max(self._room, num_beside)
        if plan.blend.key in self._groups:
            self._groups[plan.blend.key].last_in = self._num_steps
        for sequence, num_tokens in plan.shares:
            self._groups[sequence.request.blend.key].last_ran = self._num_steps
            sequence.num_cached += num_tokens
            sequence.num_steps += 1
            sequence.is_mixed |= plan.is_beside(sequence)
            if sequence.id in sampled:
                sequence.since, sequence.owed_since = self._num_steps, None
                self._ledger.charge(sequence, new_tokens=1)

    def ran_out_of_room(self, num_beside: int) -> None:
        """The device held only so many blends beside the one in the weights, fewer than were planned."""
        self._room = max(1, num_beside)

    def stop_mixing(self, key: BlendKey) -> None:
        """There is no room on the device for this blend beside another, whatever else runs: it runs in the weights."""
        group = self._groups[key]
        group.survey = replace(group.survey, is_mixable=False)

    # Questions.

    def get(self, request_id: RequestId) -> Sequence | None:
        return self._by_id.get(request_id)

    def of_blend(self, key: BlendKey) -> list[Sequence]:
        group = self._groups.get(key)
        return list(group) if group else []

    def uses(self, version: Version) -> bool:
        return any(version in group.blend.versions for group in self._groups.values())

    def rank(self, sequence: Sequence) -> tuple[float, float, int]:
        """Who comes next, least first, but for those who have waited too long."""
        return self._ledger.rank(sequence)

    def expired(self, now: float) -> list[Sequence]:
        return [sequence for sequence in self._by_id.values() if sequence.deadline_s <= now]

    def hopeless(self, now: float) -> list[tuple[Sequence, DeadlineUnreachable]]:
        """Of those that have not begun, the ones that cannot be done in time any more."""
        waiting = [sequence for sequence in self._by_id.values() if sequence.started_s is None]
        found = [(sequence, self._find_unreachable(sequence.request, now, ())) for sequence in waiting]
        return [(sequence, error) for sequence, error in found if error is not None]

    def next_deadline(self) -> float:
        return min((sequence.deadline_s for sequence in self._by_id.values()), default=math.inf)

    def _too_long(self, request: GenerationRequest) -> RequestRejected | None:
        num_prompt_tokens, max_length = request.num_prompt_tokens, self._memory.max_sequence_tokens
        if num_prompt_tokens + request.max_new_tokens <= max_length:
            return None
        return RequestRejected(
            f"{num_prompt_tokens} prompt tokens and {request.max_new_tokens} new ones do not fit the KV "
            f"memory: the setting kv_budget_bytes leaves one request room for {max_length} tokens"
        )

    def _unreachable(self, request: GenerationRequest, now: float) -> DeadlineUnreachable | None:
        """At the best, only requests of the same client come first, and those beyond the free places alone."""
        waiting = [s.request for s in self._by_id.values() if s.started_s is None]
        own = sorted(other.token_cost for other in waiting if other.client == request.client)
        num_before = max(0, len(own) - (self._limits.max_batch - self.num_running))
        return self._find_unreachable(request, now, own[:num_before])

    def _find_unreachable(
        self, request: GenerationRequest, now: float, before: Collection[float]
    ) -> DeadlineUnreachable | None:
        needed_s = needed_s_if_late(request, now, rates=self.rates, before=before, step_tokens=self._limits.step_tokens)
        if needed_s is None:
            return None
        return DeadlineUnreachable(
            deadline_ms=request.deadline_ms,
            needed_ms=round((now - request.arrived_s + needed_s) * 1e3),
            retry_after_s=self.retry_after_s(),
        )

    def _rank(self, group: Group) -> tuple[float, float, int]:
        return min(self.rank(sequence) for sequence in group)

    def _new_stay(self, active: Blend) -> Stay:
        """Not what was chosen last is in, but this: a switch failed, or it was forgotten."""
        group = self._groups.get(active.key)
        survey = group.survey if group else Survey(num_entries=0, is_mixable=True)
        return Stay(
            key=active.key,
            num_entries=survey.num_entries,
            is_mixable=survey.is_mixable,
            is_mixing=self._stay.is_mixing,
            way_lost_s=self._stay.way_lost_s,
        )

    def _compose(self, active: Blend, stay: Stay) -> tuple[Plan, Stay]:
        """The best step with the sequences that have KV memory."""
        groups = {group.blend.key: group for group in self._groups.values() if group.running}
        first = min(
            (sequence for sequence in self.seats.running if sequence.is_owed),
            key=lambda sequence: (sequence.owed_since, sequence.order),
            default=None,
        )
        choice = choose(
            [rows for group in groups.values() for rows in rows_of(group, self._limits.step_tokens, self._ledger)],
            stay,
            base=self._base.key,
            first=first.request.blend.key if first else None,
            costs=self._costs,
            rules=self._rules,
            room=self._room,
        )
        runnable = [
            sequence
            for sequence in self.seats.running
            if choice.runs(sequence.request.blend.key, _is_exclusive(groups, sequence))
        ]
        shares = share_out(runnable, first, self._limits.step_tokens)
        used = {sequence.request.blend.key for sequence, _ in shares} - {choice.key}
        blends = {self._base.key: self._base, active.key: active} | {key: group.blend for key, group in groups.items()}
        beside = tuple(blends[key] for key in choice.beside if key in used)
        return Plan(blend=blends[choice.key], beside=beside, shares=tuple(shares)), choice.stay

    def _fits(self, plan: Plan) -> bool:
        """Alone a sequence always does."""
        if len(self.seats.running) == 1:
            return True
        more = {sequence.id: num_tokens for sequence, num_tokens in plan.shares}
        return self._memory.fits([s.num_cached + more.get(s.id, 0) for s in self.seats.running])


def _is_exclusive(groups: dict[BlendKey, Group], sequence: Sequence) -> bool:
    return is_exclusive(groups[sequence.request.blend.key], sequence)
