"""Brings an adapter's bytes up the tiers: host from disk, disk from Redis."""

from __future__ import annotations

import logging
from time import perf_counter

from adapters_store.adapter import Adapter, Version
from adapters_store.claims import Claims
from adapters_store.errors import AdapterUnavailable, BlobCorrupt
from adapters_store.peers import Peers
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.host import HostTier
from adapters_store.tiers.observer import TierName, TierObserver
from adapters_store.tiers.single_flight import SingleFlight

log = logging.getLogger(__name__)


class Supply:
    """Any thread may call it. What is acquired or loaded is claimed meanwhile, so that it is not removed."""

    def __init__(self, host: HostTier, disk: DiskTier, peers: Peers, claims: Claims, observer: TierObserver) -> None:
        self._host, self._disk, self._peers, self._claims = host, disk, peers, claims
        self._observer = observer
        self._flights: SingleFlight[Version, Adapter] = SingleFlight()

    def acquire(self, version: Version) -> Adapter:
        """The adapter in host memory, kept there until ``release``. Concurrent calls share one load.

        Raises AdapterUnavailable, BlobCorrupt (the disk's bytes are damaged and there are no others), BudgetExceeded.
        """
        self._claims.add(version)
        try:
            adapter = self._host.acquire(version)
            if adapter is not None:
                self._observer.hit("host")
                return adapter
            self._observer.miss("host")
            while adapter is None:
                loaded, led = self._flights.run(version, lambda: self._bring_up(version))
                adapter = loaded if led else self._host.acquire(version)  # the leader's hold is its own
        except BaseException:
            self._claims.end(version)
            raise
        return adapter

    def release(self, adapter: Adapter) -> None:
        """Ends the hold of one ``acquire``."""
        self._host.release(adapter)
        self._claims.end(adapter.version)

    def load(self, version: Version) -> Adapter:
        """The adapter without a place in host memory. Raises AdapterUnavailable, BlobCorrupt."""
        with self._claims.claim(version):
            return self._load(version)[0]

    def tell_disk(self) -> None:
        """Reports to the observer what the disk holds now."""
        self._observer.held("disk", **self._disk.describe())

    def _bring_up(self, version: Version) -> Adapter:
        """Into host memory, held once."""
        started = perf_counter()
        adapter, tier = self._load(version)
        held = self._host.insert(adapter)
        self._observer.fetched(tier, perf_counter() - started)
        return held

    def _load(self, version: Version) -> tuple[Adapter, TierName]:
        """From the disk, or by way of Redis if this disk lacks it or holds it damaged; and which of the two."""
        damage: BlobCorrupt | None = None
        try:
            adapter = self._load_from_disk(version)
        except BlobCorrupt as error:
            adapter, damage = None, error
            log.error("%s", error)
        if adapter is not None:
            self._observer.hit("disk")
            return adapter, "disk"
        self._observer.miss("disk")
        adapter = self._peers.fetch(version)
        if adapter is not None:
            self.tell_disk()
            return adapter, "redis"
        if damage is not None:
            raise damage
        raise AdapterUnavailable(version, reason="its bytes are on no disk or Redis that can be reached")

    def _load_from_disk(self, version: Version) -> Adapter | None:
        manifest = self._disk.manifest(version)
        if manifest is None:
            return None
        index_set = self._host.index_set(manifest.index_set) or self._disk.load_index_set(manifest.index_set)
        values = self._disk.load_values(manifest.values)
        return None if index_set is None or values is None else manifest.assemble(index_set, values)
