"""The one byte-budgeted LRU, with reference counts and pins. The host and device tiers are made of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from adapters_store.errors import BudgetExceeded

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    num_entries: int
    num_bytes: int
    num_held: int
    held_bytes: int  # of entries that are referenced or pinned, which cannot be evicted


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    num_bytes: int
    num_references: int = 0
    is_pinned: bool = False
    leaves_when_unheld: bool = False

    @property
    def is_evictable(self) -> bool:
        return self.num_references == 0 and not self.is_pinned


class ByteBudgetCache(Generic[K, V]):
    """Keeps values up to ``budget_bytes``; the least recently used unheld ones leave first.

    An entry with references or a pin is never evicted. ``on_evict(key, value)`` tells of every entry that left, for
    whatever reason, after the lock is released and on the thread that caused it. Any thread may call any method.
    """

    def __init__(self, budget_bytes: int, *, what: str = "entry", on_evict: Callable[[K, V], None] | None = None):
        self.budget_bytes = budget_bytes
        self._what = what  # names an entry in errors
        self._on_evict = on_evict
        self._lock = Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()  # least recently used first
        self._num_bytes = 0
        self._held_bytes = 0

    def get_or_none(self, key: K) -> V | None:
        """The value, now the most recently used. It may be evicted at any time: ``acquire`` to keep it."""
        with self._lock:
            entry = self._touch(key)
            return None if entry is None else entry.value

    def peek(self, key: K) -> V | None:
        """As ``get_or_none``, but leaves the order of use as it is."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry.value

    def acquire(self, key: K) -> V | None:
        """As ``get_or_none``, and one reference more, to be given back with ``release``. None takes no reference."""
        with self._lock:
            entry = self._touch(key)
            if entry is None:
                return None
            self._reference(entry)
            return entry.value

    def release(self, key: K) -> None:
        """Gives one reference back. Raises KeyError if the key is not here, ValueError if it has no references."""
        with self._lock:
            entry = self._entries[key]
            if entry.num_references == 0:
                raise ValueError(f"{self._what} {key!r} was released more often than acquired")
            entry.num_references -= 1
            if not entry.is_evictable:
                return
            self._held_bytes -= entry.num_bytes
            if not entry.leaves_when_unheld:
                return
            left = [(key, self._remove(key))]
        self._tell(left)

    def insert(self, key: K, value: V, num_bytes: int, *, acquire: bool = False) -> V:
        """Adds an entry as the most recently used, evicting what it must; with ``acquire`` it starts referenced.

        A key that is here already keeps its value, which is returned, and is no longer marked to leave. Raises
        BudgetExceeded, having evicted nothing, if it does not fit with everything evictable gone.
        """
        left: list[tuple[K, V]] = []
        with self._lock:
            entry = self._touch(key)
            if entry is None:
                if self._held_bytes + num_bytes > self.budget_bytes:
                    raise BudgetExceeded(
                        f"{self._what} {key!r}",
                        needed_bytes=num_bytes,
                        budget_bytes=self.budget_bytes,
                        held_bytes=self._held_bytes,
                    )
                left = self._make_room(num_bytes)
                entry = self._entries[key] = _Entry(value, num_bytes)
                self._num_bytes += num_bytes
            entry.leaves_when_unheld = False
            if acquire:
                self._reference(entry)
        self._tell(left)
        return entry.value

    def pin(self, key: K) -> bool:
        """Keeps the entry from eviction until ``unpin``; False if it is not here. Pins do not count.

        An entry marked to leave is no longer so."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False
            if entry.is_evictable:
                self._held_bytes += entry.num_bytes
            entry.is_pinned = True
            entry.leaves_when_unheld = False
            return True

    def unpin(self, key: K) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.is_pinned:
                return
            entry.is_pinned = False
            if entry.is_evictable:
                self._held_bytes -= entry.num_bytes

    def evict(self, key: K) -> bool:
        """Removes the entry now unless it is held; True if it is gone (or never was here)."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return True
            if not entry.is_evictable:
                return False
            left = [(key, self._remove(key))]
        self._tell(left)
        return True

    def drop_when_unheld(self, key: K) -> bool:
        """Removes the entry now, or at its last ``release``; takes the pin off. True if it is gone on return.

        Until it leaves it is found like any other; a later ``insert`` takes the mark off.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return True
            if entry.num_references > 0:
                entry.leaves_when_unheld = True
                entry.is_pinned = False
                return False
            if entry.is_pinned:
                self._held_bytes -= entry.num_bytes
            left = [(key, self._remove(key))]
        self._tell(left)
        return True

    def num_references(self, key: K) -> int:
        with self._lock:
            entry = self._entries.get(key)
            return 0 if entry is None else entry.num_references

    def keys(self) -> list[K]:
        """Least recently used first."""
        with self._lock:
            return list(self._entries)

    def items(self) -> list[tuple[K, V]]:
        """Least recently used first; leaves the order of use as it is. What is not held may be evicted meanwhile."""
        with self._lock:
            return [(key, entry.value) for key, entry in self._entries.items()]

    def counts(self) -> CacheCounts:
        with self._lock:
            return CacheCounts(
                num_entries=len(self._entries),
                num_bytes=self._num_bytes,
                num_held=sum(not entry.is_evictable for entry in self._entries.values()),
                held_bytes=self._held_bytes,
            )

    # Below: called with the lock held.

    def _touch(self, key: K) -> _Entry[V] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _reference(self, entry: _Entry[V]) -> None:
        if entry.is_evictable:
            self._held_bytes += entry.num_bytes
        entry.num_references += 1

    def _make_room(self, num_bytes: int) -> list[tuple[K, V]]:
        left: list[tuple[K, V]] = []
        for key in list(self._entries):
            if self._num_bytes + num_bytes <= self.budget_bytes:
                break
            if self._entries[key].is_evictable:
                left.append((key, self._remove(key)))
        return left

    def _remove(self, key: K) -> V:
        entry = self._entries.pop(key)
        self._num_bytes -= entry.num_bytes
        return entry.value

    # Called without the lock.

    def _tell(self, left: list[tuple[K, V]]) -> None:
        if self._on_evict is not None:
            for key, value in left:
                self._on_evict(key, value)
