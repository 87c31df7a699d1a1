"""The host tier: adapters in memory, ready to be staged.

Index sets and values are entries of their own, so that an index set many adapters share is held and counted once. An
adapter is resident when both of its entries are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal, NamedTuple

from torch import Tensor

from adapters_store.adapter import Adapter, Digest, Fingerprint, IndexSet, Version
from adapters_store.errors import NeverFits
from adapters_store.tiers.lru import ByteBudgetCache
from adapters_store.tiers.observer import TierObserver


class _Key(NamedTuple):
    kind: Literal["index set", "values"]
    digest: Digest | Version  # values go by the version: the same values may serve two manifests


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    version: Version
    base: Fingerprint
    index_set: Digest
    values_digest: Digest
    values: Tensor


class HostTier:
    """Any thread may call it; nothing here blocks or reads a file."""

    def __init__(self, budget_bytes: int, observer: TierObserver) -> None:
        self._observer = observer
        self._cache: ByteBudgetCache[_Key, IndexSet | _Values] = ByteBudgetCache(
            budget_bytes, what="host tier", on_evict=lambda _key, _value: observer.evicted("host", 1)
        )
        self._pinned: frozenset[Version] = frozenset()
        self._pin_lock = Lock()  # pins follow the last ``set_pinned``

    def acquire(self, version: Version) -> Adapter | None:
        """The adapter, held until ``release``, or None without a hold."""
        values_key = _Key("values", version)
        values = self._cache.acquire(values_key)
        if not isinstance(values, _Values):
            return None
        index_set = self._cache.acquire(_Key("index set", values.index_set))
        if not isinstance(index_set, IndexSet):
            self._cache.release(values_key)
            return None
        return _adapter(values, index_set)

    def insert(self, adapter: Adapter) -> Adapter:
        """Takes the adapter in, held as by ``acquire``. If its index set is here already, that one serves.

        Raises BudgetExceeded, holding nothing."""
        index_key = _Key("index set", adapter.index_set.digest)
        index_set = self._cache.insert(index_key, adapter.index_set, adapter.index_set.num_bytes, acquire=True)
        assert isinstance(index_set, IndexSet)  # noqa: S101  (keys and values go together)
        values = _Values(
            version=adapter.version,
            base=adapter.base,
            index_set=adapter.index_set.digest,
            values_digest=adapter.values_digest,
            values=adapter.values,
        )
        try:
            self._cache.insert(_Key("values", adapter.version), values, adapter.num_bytes, acquire=True)
        except BaseException:
            self._cache.release(index_key)
            raise
        with self._pin_lock:
            if adapter.version in self._pinned:
                for key in _keys(values):
                    self._cache.pin(key)
        self.tell()
        return _adapter(values, index_set)

    def check_fits(self, adapters: Sequence[Adapter]) -> None:
        """Raises NeverFits if they do not fit together in the whole budget."""
        index_sets = {adapter.index_set.digest: adapter.index_set.num_bytes for adapter in adapters}
        needed = sum(adapter.num_bytes for adapter in adapters) + sum(index_sets.values())
        if needed > self._cache.budget_bytes:
            raise NeverFits("the host tier", needed_bytes=needed, budget_bytes=self._cache.budget_bytes)

    def release(self, adapter: Adapter) -> None:
        self._cache.release(_Key("values", adapter.version))
        self._cache.release(_Key("index set", adapter.index_set.digest))
        if not self.is_resident(adapter.version):  # it was marked to leave
            self.tell()

    def index_set(self, digest: Digest) -> IndexSet | None:
        """The index set if some adapter brought it here, not held."""
        found = self._cache.get_or_none(_Key("index set", digest))
        return found if isinstance(found, IndexSet) else None

    def is_resident(self, version: Version) -> bool:
        values = self._cache.peek(_Key("values", version))
        return isinstance(values, _Values) and self._cache.peek(_Key("index set", values.index_set)) is not None

    def drop(self, version: Version) -> None:
        """Frees the values, and the index set if nothing here uses it any more; what is held leaves when released."""
        dropped = self._cache.peek(_Key("values", version))
        if not isinstance(dropped, _Values):
            return
        self._cache.drop_when_unheld(_Key("values", version))
        if all(values.index_set != dropped.index_set or values is dropped for values in self._all_values()):
            self._cache.drop_when_unheld(_Key("index set", dropped.index_set))
        self.tell()

    def set_pinned(self, versions: Collection[Version]) -> None:
        """These versions are not evicted once they are here, and no others are kept so."""
        with self._pin_lock:
            self._pinned = frozenset(versions)
            pinned = {key for values in self._all_values() if values.version in self._pinned for key in _keys(values)}
            for key in pinned:  # before others are let go, so that none of them is without its pin for a moment
                self._cache.pin(key)
            for key, _ in self._cache.items():
                if key not in pinned:
                    self._cache.unpin(key)

    def describe(self) -> dict[str, object]:
        counts = self._cache.counts()
        values = self._all_values()
        return {
            "adapters": sorted(entry.version for entry in values),
            "num_index_sets": counts.num_entries - len(values),
            "num_bytes": counts.num_bytes,
            "held_bytes": counts.held_bytes,
            "budget_bytes": self._cache.budget_bytes,
        }

    def tell(self) -> None:
        """Reports to the observer what is held now."""
        counts = self._cache.counts()
        items = [value for _, value in self._cache.items()]
        index_set_bytes = {value.digest: value.num_bytes for value in items if isinstance(value, IndexSet)}
        uses = [value.index_set for value in items if isinstance(value, _Values)]
        self._observer.held(
            "host", num_adapters=len(uses), num_index_sets=len(index_set_bytes), num_bytes=counts.num_bytes
        )
        shared = sum(index_set_bytes.get(digest, 0) for digest in uses)
        self._observer.index_set_bytes_shared(shared - sum(index_set_bytes.get(digest, 0) for digest in set(uses)))

    def _all_values(self) -> list[_Values]:
        return [value for _, value in self._cache.items() if isinstance(value, _Values)]


def _keys(values: _Values) -> tuple[_Key, _Key]:
    """Of the two entries that an adapter is."""
    return _Key("values", values.version), _Key("index set", values.index_set)


def _adapter(values: _Values, index_set: IndexSet) -> Adapter:
    return Adapter(
        version=values.version,
        base=values.base,
        index_set=index_set,
        values_digest=values.values_digest,
        values=values.values,
    )
