"""How fast requests are served, as measured: when to come back, and which deadlines cannot be met."""

from __future__ import annotations

from collections import deque

MAX_RETRY_AFTER_S = 60
WINDOW_S = 30.0
NUM_STEPS_KNOWN = 16  # steps measured before anyone is refused by them
NUM_STEPS_KEPT = 64
HOPE = 2.0


class Rates:
    """Engine thread only, but for ``retry_after_s``. Times are on the engine clock."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque()
        self._since: float | None = None  # requests have been under way all the time since then
        self._steps_s: deque[float] = deque(maxlen=NUM_STEPS_KEPT)
        self._shortest_s = 0.0
        self._num_ended_per_s = 0.0  # over the last half minute of work; 0 while nothing was measured

    def ran(self, step_s: float, now: float) -> None:
        self._steps_s.append(step_s)
        self._shortest_s = min(self._steps_s)
        self._since = now - step_s if self._since is None else self._since
        self._measure(now)

    def ended(self, now: float) -> None:
        self._ends.append(now)

    def idle(self) -> None:
        """Nothing is live: what follows does not count the pause, and nobody is refused by what was measured before it,
        for those who are refused measure nothing."""
        self._since = None
        self._ends.clear()
        self._steps_s.clear()

    def retry_after_s(self, num_waiting: int) -> int:
        """When those that wait now will have begun: whole seconds, 1 to 60. Any thread."""
        rate = self._num_ended_per_s
        return max(1, min(MAX_RETRY_AFTER_S, round(num_waiting / rate))) if rate else 1

    def least_s(self, num_before: int, num_steps: int) -> float:
        """What a request takes at the very least: ``num_before`` others end first, ``HOPE`` times as fast as lately,
        then it takes so many steps, each as short as the shortest of the last ones. 0 while too little is known."""
        if len(self._steps_s) < NUM_STEPS_KNOWN:
            return 0.0
        queue_s = num_before / (HOPE * self._num_ended_per_s) if self._ends else 0.0
        return queue_s + num_steps * self._shortest_s

    def _measure(self, now: float) -> None:
        """While none has ended yet, the rate is at most one in the time so far."""
        while self._ends and self._ends[0] < now - WINDOW_S:
            self._ends.popleft()
        assert self._since is not None  # noqa: S101  (set by ``ran``)
        window_s = min(WINDOW_S, now - self._since)
        if window_s > 0:
            self._num_ended_per_s = max(1, len(self._ends)) / window_s
