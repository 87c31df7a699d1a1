"""How fast requests are served, as measured: when to come back, and which deadlines cannot be met."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

MAX_RETRY_AFTER_S = 60
WINDOW_S = 30.0
NUM_STEPS_KNOWN = 16  # steps measured before anyone is refused by them
NUM_STEPS_KEPT = 64
HOPE = 2.0


class Rates:
    """Engine thread only, but for ``retry_after_s``. Times are on the engine clock. A ``cost`` is that of a request's
    token (``GenerationRequest.token_cost``): what took long because it was heavy says nothing of what is lighter."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, float]] = deque()  # when, and of what cost
        self._since: float | None = None  # requests have been under way all the time since then
        self._steps: deque[tuple[float, float]] = deque(maxlen=NUM_STEPS_KEPT)  # seconds, and the heaviest row's cost
        self._shortest_s: dict[float, float] = {}  # by cost, as far as it was asked for since the last step
        self._num_ended_per_s = 0.0  # over the last half minute of work; 0 while nothing was measured

    def ran(self, step_s: float, now: float, cost: float) -> None:
        """``cost``: of the heaviest row."""
        self._steps.append((step_s, cost))
        self._shortest_s.clear()
        self._since = now - step_s if self._since is None else self._since
        self._measure(now)

    def ended(self, now: float, cost: float) -> None:
        self._ends.append((now, cost))

    def idle(self) -> None:
        """Nothing is live: what follows does not count the pause, and nobody is refused by what was measured before it,
        for those who are refused measure nothing."""
        self._since = None
        self._ends.clear()
        self._steps.clear()
        self._shortest_s.clear()

    def retry_after_s(self, num_waiting: int) -> int:
        """When those that wait now will have begun: whole seconds, 1 to 60. Any thread."""
        rate = self._num_ended_per_s
        return max(1, min(MAX_RETRY_AFTER_S, round(num_waiting / rate))) if rate else 1

    def least_s(self, before: Collection[float], num_steps: int, cost: float) -> float:
        """What a request takes at the very least: others of the costs ``before`` end first, ``HOPE`` times as fast as
        lately, then it takes so many steps, each as short as the shortest of the last ones that ran nothing heavier. 0
        while too little is known."""
        shortest_s = self._shortest(cost)
        return self._queue_s(before) + num_steps * shortest_s if shortest_s else 0.0

    def _shortest(self, cost: float) -> float:
        """0 while too little is known of such steps."""
        if cost not in self._shortest_s:
            steps_s = [step_s for step_s, heaviest in self._steps if heaviest <= cost]
            self._shortest_s[cost] = min(steps_s) if len(steps_s) >= NUM_STEPS_KNOWN else 0.0
        return self._shortest_s[cost]

    def _queue_s(self, before: Collection[float]) -> float:
        if not before or not self._ends or max(cost for _, cost in self._ends) > min(before):
            return 0.0
        return len(before) / (HOPE * self._num_ended_per_s)

    def _measure(self, now: float) -> None:
        """While none has ended yet, the rate is at most one in the time so far."""
        while self._ends and self._ends[0][0] < now - WINDOW_S:
            self._ends.popleft()
        assert self._since is not None  # noqa: S101  (set by ``ran``)
        window_s = min(WINDOW_S, now - self._since)
        if window_s > 0:
            self._num_ended_per_s = max(1, len(self._ends)) / window_s
