"""Who needs which version now. A version with claims is not removed; one that is being removed takes no claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from time import monotonic

from adapters_store.adapter import Version
from adapters_store.errors import AdapterInUse


class Claims:
    """Any thread may call it. ``add`` waits only while the version is being removed, which takes milliseconds."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._counts: Counter[Version] = Counter()
        self._being_removed: set[Version] = set()

    def add(self, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version not in self._being_removed)
            self._counts[version] += 1

    def end(self, version: Version) -> None:
        """Raises ValueError if there is no claim to end."""
        with self._changed:
            if self._counts[version] == 0:
                raise ValueError(f"{version} is not claimed")
            self._counts[version] -= 1
            if self._counts[version] == 0:
                del self._counts[version]
                self._changed.notify_all()

    @contextmanager
    def claim(self, version: Version) -> Iterator[None]:
        self.add(version)
        try:
            yield
        finally:
            self.end(version)

    @contextmanager
    def remove(self, version: Version, *, timeout_s: float) -> Iterator[None]:
        """Waits until nobody claims the version and keeps new claims out of the body. Raises AdapterInUse."""
        started = monotonic()
        with self._changed:
            is_free = self._changed.wait_for(
                lambda: self._counts[version] == 0 and version not in self._being_removed, timeout_s
            )
            if not is_free:
                raise AdapterInUse(version, num_holders=self._counts[version], waited_s=monotonic() - started)
            self._being_removed.add(version)
        try:
            yield
        finally:
            with self._changed:
                self._being_removed.discard(version)
                self._changed.notify_all()

    def claimed(self) -> dict[Version, int]:
        with self._changed:
            return {version: count for version, count in self._counts.items() if count}
