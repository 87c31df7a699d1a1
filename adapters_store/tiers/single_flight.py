"""Many callers, one piece of work."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class SingleFlight(Generic[K, R]):
    """``run`` for a key that is in flight waits for that flight. Results and errors are not kept."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._flights: dict[K, Future[R]] = {}

    def run(self, key: K, work: Callable[[], R]) -> tuple[R, bool]:
        """The result, and whether this call did the work. An error of the work is raised in every waiting call."""
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leads:
            return flight.result(), False
        try:
            result = work()
        except BaseException as error:
            self._land(key)
            flight.set_exception(error)
            raise
        self._land(key)
        flight.set_result(result)
        return result, True

    def _land(self, key: K) -> None:
        with self._lock:
            del self._flights[key]
