"""Who runs in the next step. Plain data: no clock reads, no threads, no torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.core.errors import Draining, QueueFull, RequestRejected, ServerError
from server.core.requests import RequestId
from server.core.steps import NewSequence
from server.engine.policy import Candidate, Quantum, choose
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.adapter import Version
    from adapters_store.blend import Blend, BlendKey

MAX_RETRY_AFTER_S = 60

CanAdmit = Callable[[list[NewSequence]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_prefill_tokens`` bounds the prompts that one step starts beyond the first, each counted as long as the
    longest, to which they are padded; ``quantum_steps`` the steps that one blend runs while another waits."""

    max_queue: int = 256
    max_batch: int = 32
    max_prefill_tokens: int = 4096
    quantum_steps: int = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """The requests of one blend."""

    blend: Blend
    load: int  # tells this group's load from those of earlier groups of the same blend
    is_ready: bool  # its bytes are on the host
    waiting_since: int  # see policy.Candidate
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One step: the blend to run under, prompts to start, sequences to continue."""

    blend: Blend
    starting: tuple[Sequence, ...]
    running: tuple[Sequence, ...]

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return self.starting + self.running


class Scheduler:
    """Owns every request from ``add`` to ``remove``. Not thread-safe: the engine thread's."""

    def __init__(self, limits: Limits, *, max_sequence_tokens: int, can_admit: CanAdmit) -> None:
        """``max_sequence_tokens`` and ``can_admit`` are the runner's."""
        self._limits = limits
        self._max_sequence_tokens = max_sequence_tokens
        self._can_admit = can_admit
        self._groups: dict[BlendKey, Group] = {}
        self._by_id: dict[RequestId, Sequence] = {}
        self._current: Quantum | None = None
        self._num_steps = 0
        self._num_groups = 0
        self._mean_total_s = 1.0
        self.is_draining = False

    @property
    def num_waiting(self) -> int:
        """May be read on any thread."""
        return sum(len(group.waiting) for group in list(self._groups.values()))

    @property
    def num_running(self) -> int:
        return sum(len(group.running) for group in self._groups.values())

    @property
    def sequences(self) -> list[Sequence]:
        return list(self._by_id.values())

    @property
    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def refusal(self, together: list[NewSequence]) -> ServerError | None:
        """Why these requests cannot all be taken now; None if they can."""
        if self.is_draining:
            return Draining("the server is stopping")
        if self.num_waiting + len(together) > self._limits.max_queue:
            return QueueFull(limit=self._limits.max_queue, retry_after_s=self.retry_after_s())
        for new in together:
            if len(new.prompt_tokens) + new.max_new_tokens > self._max_sequence_tokens:
                return RequestRejected(
                    f"{len(new.prompt_tokens)} prompt tokens and {new.max_new_tokens} new ones do not fit the KV "
                    f"memory: the setting kv_budget_bytes leaves one request room for {self._max_sequence_tokens} tokens"
                )
        return None

    def retry_after_s(self) -> int:
        """When a place in the queue may be free: whole seconds, from how long requests took lately."""
        rounds = 1 + self.num_waiting // self._limits.max_batch
        return max(1, min(MAX_RETRY_AFTER_S, round(self._mean_total_s * rounds)))

    def add(self, sequence: Sequence) -> Group | None:
        """Takes a request that ``refusal`` let pass. Returns its group if that is new and its bytes must be loaded."""
        blend = sequence.request.blend
        group = self._groups.get(blend.key)
        is_new = group is None
        if group is None:
            self._num_groups += 1
            group = Group(blend=blend, load=self._num_groups, is_ready=blend.is_base, waiting_since=self._num_steps)
            self._groups[blend.key] = group
        group.waiting.append(sequence)
        self._by_id[sequence.id] = sequence
        return group if is_new and not group.is_ready else None

    def loading(self, key: BlendKey, load: int) -> Group | None:
        """The group that waits for this load; None if it has gone meanwhile."""
        group = self._groups.get(key)
        return group if group is not None and group.load == load else None

    def loaded(self, group: Group) -> None:
        """The group's bytes are on the host."""
        group.is_ready = True
        group.waiting_since = self._num_steps

    def get(self, request_id: RequestId) -> Sequence | None:
        return self._by_id.get(request_id)

    def of_blend(self, key: BlendKey) -> list[Sequence]:
        group = self._groups.get(key)
        return list(group) if group else []

    def uses(self, version: Version) -> bool:
        return any(version in group.blend.versions for group in self._groups.values())

    def remove(self, sequence: Sequence) -> Blend | None:
        """Ends a request. Returns its blend if nobody else has it, so that its bytes can be let go."""
        del self._by_id[sequence.id]
        key = sequence.request.blend.key
        group = self._groups[key]
        if sequence in group.running:
            group.running.remove(sequence)
        else:
            group.waiting.remove(sequence)
        if group.running or group.waiting:
            return None
        del self._groups[key]
        return None if group.blend.is_base else group.blend

    def ended(self, total_s: float) -> None:
        """A request was answered after ``total_s``; what ``retry_after_s`` learns from."""
        self._mean_total_s += 0.1 * (total_s - self._mean_total_s)

    def expired(self, now: float) -> list[Sequence]:
        return [sequence for sequence in self._by_id.values() if sequence.deadline_s <= now]

    def next_deadline(self) -> float:
        return min((sequence.deadline_s for sequence in self._by_id.values()), default=math.inf)

    def plan(self) -> Plan | None:
        """The next step, its new prompts moved from waiting to running; None if nothing can run now."""
        ready = [group for group in self._groups.values() if group.is_ready]
        oldest = self._oldest(ready)
        startable = {group.blend.key for group in ready if oldest and self._has_room(group, oldest)}
        candidates = [
            Candidate(key=group.blend.key, waiting_since=group.waiting_since)
            for group in ready
            if group.running or group.blend.key in startable
        ]
        key = choose(candidates, self._current, quantum_steps=self._limits.quantum_steps)
        if key is None:
            return None
        group = self._groups[key]
        running = tuple(group.running)
        starting = self._start(group, oldest) if oldest and key in startable else ()
        self._count_step(group)
        return Plan(blend=group.blend, starting=starting, running=running)

    def _oldest(self, ready: list[Group]) -> Sequence | None:
        """Of the prompts that have a place in their batch, the one that came first."""
        heads = [group.waiting[0] for group in ready if self._has_place(group)]
        return min(heads, key=lambda head: head.request.arrived_s, default=None)

    def _has_place(self, group: Group) -> bool:
        return bool(group.waiting) and len(group.running) < self._limits.max_batch

    def _has_room(self, group: Group, oldest: Sequence) -> bool:
        """A younger prompt starts only where memory is left for the oldest as well, so that it is not overtaken for
        ever; while the oldest finds none, nobody starts."""
        return self._has_place(group) and self._can_admit(_together(oldest, [group.waiting[0]]))

    def _start(self, group: Group, oldest: Sequence) -> tuple[Sequence, ...]:
        """As many waiting prompts as fit, in order; at least one."""
        starting = [group.waiting.popleft()]
        longest = len(starting[0].request.prompt_tokens)
        while group.waiting and len(group.running) + len(starting) < self._limits.max_batch:
            head = group.waiting[0]
            longest = max(longest, len(head.request.prompt_tokens))
            if longest * (len(starting) + 1) > self._limits.max_prefill_tokens:
                break
            if not self._can_admit(_together(oldest, [*starting, head])):
                break
            starting.append(group.waiting.popleft())
        group.running += starting
        return tuple(starting)

    def _count_step(self, group: Group) -> None:
        self._num_steps += 1
        group.waiting_since = self._num_steps
        key = group.blend.key
        before = self._current.num_steps if self._current and self._current.key == key else 0
        self._current = Quantum(key=key, num_steps=before + 1)


def _together(oldest: Sequence, starting: list[Sequence]) -> list[NewSequence]:
    kept = [] if oldest in starting else [oldest.new]
    return kept + [sequence.new for sequence in starting]
