"""Who has KV memory: sequences start, are parked, and go on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from server.core.requests import RequestId
from server.core.steps import New, Reused
from server.engine.fairness import Ledger
from server.engine.group import Group
from server.engine.limits import Limits
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey

Reason = Literal["memory", "turn", "bytes"]


class KvMemory(Protocol):
    """What of ``ports.Runner`` this is about."""

    @property
    def max_sequence_tokens(self) -> int: ...

    def fits(self, lengths: AnySequence[int]) -> bool: ...

    def begin(self, new: New) -> Reused: ...

    def pause(self, ids: Collection[RequestId]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    sequence: Sequence
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """It starts, or goes on after a park."""

    sequence: Sequence
    reused: Reused


class Seats:
    """At most ``max_batch`` sequences, as far as their KV fits. Owed ones come first, in the order in which they became
    so; then who was given least."""

    def __init__(self, limits: Limits, memory: KvMemory, ledger: Ledger, groups: Mapping[BlendKey, Group]) -> None:
        """``groups`` is the scheduler's: a sequence moves between its group's ``waiting`` and ``running``."""
        self._limits = limits
        self._memory = memory
        self._ledger = ledger
        self._groups = groups
        self.running: list[Sequence] = []  # in the order in which they started
        self.parked: list[Parked] = []  # for whoever counts them
        self.seated: list[Seated] = []
        self.failed: list[tuple[Sequence, Exception]] = []  # could not start

    def mark_owed(self, ready: Iterable[Group], step: int) -> None:
        """Who has waited too long for a token by this step. Of those that wait, each client's first of each blend has
        its clock running, and those that ran before."""
        for group in ready:
            if group.is_closing:
                continue
            clients: set[str] = set()
            for sequence in group.waiting:
                if sequence.since is None and sequence.request.client not in clients:
                    sequence.since = step
                clients.add(sequence.request.client)
                self._mark(sequence, step)
            for sequence in group.running:
                self._mark(sequence, step)

    def fill(self, ready: Collection[Group], step: int) -> None:
        """Starts whoever comes next while there is room. If the next one finds none, nobody overtakes it."""
        waiting = [s for group in ready for s in group.waiting if s.is_owed or not group.is_closing]
        while waiting and (len(self.running) < self._limits.max_batch or any(s.is_owed for s in waiting)):
            head = min(waiting, key=self._claim)
            if not self._make_room(head, step):
                return
            waiting.remove(head)
            self._start(head, step)

    def park_least(self) -> Sequence | None:
        """Takes the KV of who has least claim to it; None if only one has any."""
        if len(self.running) < 2:
            return None
        victim = max(self.running, key=self._claim)
        self._park(victim, "memory")
        return victim

    def park(self, sequences: Iterable[Sequence], reason: Reason) -> None:
        for sequence in list(sequences):
            self._park(sequence, reason)

    def take_failed(self) -> list[tuple[Sequence, Exception]]:
        """Those that could not start since the last call, and why."""
        failed, self.failed = self.failed, []
        return failed

    def leave(self, sequence: Sequence) -> None:
        """A sequence that runs has ended."""
        self.running.remove(sequence)
        self._group(sequence).running.remove(sequence)

    def _mark(self, sequence: Sequence, step: int) -> None:
        since = sequence.since
        if sequence.owed_since is None and since is not None and step - since > self._limits.patience_steps:
            sequence.owed_since = step

    def _claim(self, sequence: Sequence) -> tuple[bool, float, float, float, int]:
        """Least first."""
        if sequence.owed_since is not None:
            return False, sequence.owed_since, 0.0, 0.0, sequence.order
        client, blend, order = self._ledger.rank(sequence)
        return True, 0.0, client, blend, order

    def _make_room(self, head: Sequence, step: int) -> bool:
        if self._has_room(head, self.running):
            return True
        if not head.is_owed:
            return False
        staying = list(self.running)
        for victim in sorted(self.running, key=self._claim, reverse=True):
            if not self._may_be_parked(victim, head, step):
                continue
            staying.remove(victim)
            if self._has_room(head, staying):
                self.park([sequence for sequence in self.running if sequence not in staying], "turn")
                return True
        return False

    def _has_room(self, head: Sequence, beside: list[Sequence]) -> bool:
        if len(beside) >= self._limits.max_batch:
            return False
        return self._memory.fits([self._length_soon(sequence) for sequence in (head, *beside)])

    def _length_soon(self, sequence: Sequence) -> int:
        return min(sequence.num_known + self._limits.headroom_tokens, sequence.max_length)

    def _may_be_parked(self, victim: Sequence, head: Sequence, step: int) -> bool:
        assert victim.started_step is not None  # noqa: S101  (it runs)
        has_had_turn = victim.started_step + self._limits.turn_steps <= step
        return has_had_turn and self._claim(victim) > self._claim(head)

    def _start(self, sequence: Sequence, step: int) -> None:
        try:
            reused = self._memory.begin(sequence.new)
        except Exception as error:  # of this request alone
            self.failed.append((sequence, error))
            return
        sequence.num_cached = reused.num_tokens
        sequence.is_mixed |= reused.mode == "mixed"
        sequence.started_step = step
        if sequence.since is None:
            sequence.since = step
        if not sequence.is_charged:  # at once, so that those who start in one step are weighed against one another
            sequence.is_charged = True
            self._ledger.charge(sequence, prompt_tokens=sequence.request.num_prompt_tokens - reused.num_tokens)
        self.running.append(sequence)
        self._group(sequence).waiting.remove(sequence)
        self._group(sequence).running.append(sequence)
        self.seated.append(Seated(sequence=sequence, reused=reused))

    def _park(self, sequence: Sequence, reason: Reason) -> None:
        self._memory.pause([sequence.id])
        self.leave(sequence)
        sequence.started_step = None
        self._group(sequence).wait(sequence)
        self.parked.append(Parked(sequence=sequence, reason=reason))

    def _group(self, sequence: Sequence) -> Group:
        return self._groups[sequence.request.blend.key]
