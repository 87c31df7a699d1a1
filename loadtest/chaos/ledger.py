"""What became of every request. Any thread may write to it."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from threading import Lock
from time import monotonic

MAX_INCIDENTS = 20


class Outcome(StrEnum):
    """``REFUSED``: an error of the documented shape. ``TURNED_AWAY``: no connection, or one that a stopping server
    closed before it took the request. ``CUT``: the connection ended by the fault. ``LOST``: accepted and never
    answered. ``GONE``, which is no request: something acknowledged, and not there. ``WRONG``: an answer, but not the
    one that was asked for."""

    ANSWERED = "answered"
    REFUSED = "refused"
    TURNED_AWAY = "turned away"
    CUT = "cut"
    LOST = "lost"
    GONE = "gone"
    WRONG = "wrong"


class Counts(Counter[Outcome]):
    @property
    def sent(self) -> int:
        return self.total() - self[Outcome.GONE]


class Ledger:
    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()
        self._refusals: Counter[str] = Counter()
        self._is_down = False
        self._stopping_since: float | None = None
        self._gone: set[str] = set()
        self.incidents: list[str] = []  # what was lost, gone or wrong, as sentences

    # The state of the fault, which explains why connections end.

    def expect_running(self) -> None:
        self._is_down, self._stopping_since = False, None

    def expect_down(self) -> None:
        """From now on the fault may end any connection."""
        self._is_down = True

    def expect_stopping(self) -> None:
        """From now on new requests may find no connection; those sent before are answered."""
        self._stopping_since = monotonic()

    def of_broken_connection(self, *, sent_at: float, was_connected: bool, was_taken: bool) -> Outcome:
        """What a request is, sent at ``sent_at`` (monotonic), whose connection could not be made or ended early.
        ``was_taken``: the head of an answer had come."""
        if self._is_down:
            return Outcome.CUT if was_connected else Outcome.TURNED_AWAY
        if self._stopping_since is not None and sent_at >= self._stopping_since and not was_taken:
            return Outcome.TURNED_AWAY
        return Outcome.LOST

    # Entries.

    def note(self, outcome: Outcome, what: str = "") -> None:
        """``what``: the code of a refusal, the story of what is lost, gone or wrong."""
        with self._lock:
            self._counts[outcome] += 1
            if outcome is Outcome.REFUSED:
                self._refusals[what] += 1
            if outcome in (Outcome.LOST, Outcome.GONE, Outcome.WRONG) and len(self.incidents) < MAX_INCIDENTS:
                self.incidents.append(f"{outcome}: {what}")

    def miss(self, thing: str, what: str) -> None:
        """Something acknowledged earlier is not there. It counts once, however often one looks."""
        with self._lock:
            is_known = thing in self._gone
            self._gone.add(thing)
        if not is_known:
            self.note(Outcome.GONE, what)

    def take_counts(self) -> tuple[Counts, Counter[str]]:
        """Outcomes, and refusals by code, since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
            refusals, self._refusals = self._refusals, Counter()
        return counts, refusals
