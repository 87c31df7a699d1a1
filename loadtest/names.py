"""Which version a name may stand for while it is being moved."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from loadtest.outcomes import Ending


@dataclass(slots=True)
class _Meaning:
    version: str
    until_s: float | None = None  # None: still


@dataclass(slots=True)
class Move:
    """To ``version``. Who makes it says how it ended."""

    version: str
    ending: Ending = "lost"


class Names:
    """Times are ``monotonic`` seconds. May be used from any thread."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self._meanings = {name: [_Meaning(version)] for name, version in versions.items()}
        self._moves = {name: threading.Lock() for name in versions}

    def possible(self, name: str, *, since_s: float) -> set[str]:
        """The versions that an answer to a request sent at ``since_s`` and ended now may have run with."""
        meanings = self._meanings.get(name, [])
        return {one.version for one in meanings if one.until_s is None or one.until_s >= since_s}

    def add(self, name: str, version: str) -> None:
        self._meanings[name] = [_Meaning(version)]
        self._moves[name] = threading.Lock()

    def forget(self, name: str) -> None:
        del self._meanings[name], self._moves[name]

    @contextmanager
    def moving(self, name: str, choose: Mapping[str, str]) -> Iterator[Move]:
        """One move of a name at a time, to the version that ``choose`` has for the last one. Within, both are possible;
        afterwards the new one alone where the move was answered, the old one alone where it was refused, and both where
        nobody knows: until the next move that is answered."""
        with self._moves[name]:
            before = self._meanings[name]
            new = _Meaning(choose[before[-1].version])
            self._meanings[name] = [*before, new]
            yield (move := Move(new.version))
            if move.ending == "refused":
                self._meanings[name] = before
            elif move.ending == "answered":
                _end(before)
            self._drop_old(name)

    def _drop_old(self, name: str) -> None:
        """What no request can have been sent for; none waits for an hour."""
        oldest_s = monotonic() - 3600
        self._meanings[name] = [one for one in self._meanings[name] if one.until_s is None or one.until_s > oldest_s]


def _end(meanings: list[_Meaning]) -> None:
    now_s = monotonic()
    for one in meanings:
        one.until_s = now_s if one.until_s is None else one.until_s
