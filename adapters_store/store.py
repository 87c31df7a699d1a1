"""The store: names, bytes and tiers behind one door."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from adapters_store.adapter import Adapter, Fingerprint, Version
from adapters_store.alias import (
    AliasKey,
    AliasRecord,
    Stamp,
    Writer,
    check_match,
    check_name,
    history_entry,
    moved,
    tombstone,
    uploaded,
    without_version,
)
from adapters_store.catalog import Catalog
from adapters_store.claims import Claims
from adapters_store.errors import AdapterInUse, AdapterNotFound, AdapterUnavailable
from adapters_store.format import ParsedUpload
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.host import HostTier
from adapters_store.tiers.observer import SilentObserver, TierObserver
from adapters_store.tiers.single_flight import SingleFlight

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """``created``: the alias did not know this version before."""

    record: AliasRecord
    created: bool


class AdapterStore:
    """Every method may be called on any thread; those that read or write bytes block it.

    ``base`` keeps replicas that serve different bases apart when they share a Redis.
    """

    def __init__(
        self, config: StoreConfig, base: Fingerprint | None = None, observer: TierObserver | None = None
    ) -> None:
        """Takes the data directory; raises DataDirLocked."""
        self._observer = observer or SilentObserver()
        self._data_dir = DataDir(config.data_dir)
        self._writer = Writer(secrets.token_hex(8))
        self._catalog = Catalog(self._data_dir.catalog, tmp_dir=self._data_dir.tmp)
        self._disk = DiskTier(self._data_dir)
        self._host = HostTier(config.host_budget_bytes, self._observer)
        self._claims = Claims()
        self._flights: SingleFlight[Version, Adapter] = SingleFlight()
        self._on_change: list[Callable[[AliasRecord], None]] = []

    def start(self) -> None:
        self._host.set_pinned(self._catalog.pinned_versions())
        self._collect_garbage()
        self._tell_disk()

    def close(self) -> None:
        """Gives the data directory back. Adapters still held stay usable."""
        self._data_dir.close()

    # Names.

    def put(
        self,
        parsed: ParsedUpload,
        *,
        tenant: str,
        name: str,
        description: str | None = None,
        tags: tuple[str, ...] | None = None,
        if_match: str | None = None,
    ) -> PutResult:
        """Stores the adapter and points the alias at it; durable on return.

        Description and tags given as None stay what they were. Raises AdapterRejected (name or metadata),
        CatalogConflict, StorageFull."""
        key = _key(tenant, name)
        version = parsed.adapter.version
        check_match(self._catalog.find(key), key, if_match)
        created = True

        def change(current: AliasRecord | None) -> AliasRecord:
            nonlocal created
            check_match(current, key, if_match)
            created = current is None or version not in current.versions
            return uploaded(
                current,
                key,
                version=version,
                base_verified=parsed.base_verified,
                card=parsed.card,
                description=description,
                tags=tags,
                stamp=self._stamp(),
            )

        change(self._catalog.find(key))  # refuse before anything is written
        with self._claims.claim(version):
            self._disk.write(parsed.adapter)
            record = self._commit(key, change)
        self._tell_disk()
        return PutResult(record=record, created=created)

    def get_record(self, tenant: str, name: str) -> AliasRecord:
        """Raises AdapterNotFound."""
        return self._catalog.get(AliasKey(tenant, name))

    def list_records(self, tenant: str, *, after: str | None = None, limit: int = 100) -> list[AliasRecord]:
        """Live records by name, those behind ``after``."""
        return self._catalog.page(tenant, after=after, limit=limit)

    def resolve(self, tenant: str, name: str, version: Version | None = None) -> Version:
        """The version the alias points at, or the given one if it is in its history. Raises AdapterNotFound."""
        record = self._catalog.get(AliasKey(tenant, name))
        return record.version if version is None else history_entry(record, version).version

    def move(
        self,
        tenant: str,
        name: str,
        *,
        version: Version | None = None,
        description: str | None = None,
        tags: tuple[str, ...] | None = None,
        pinned: bool | None = None,
        if_match: str | None = None,
    ) -> AliasRecord:
        """Changes what is not None; ``version`` must be in the alias's history (a rollback).

        Raises AdapterNotFound, AdapterRejected (metadata), CatalogConflict, StorageFull."""

        def change(current: AliasRecord | None) -> AliasRecord:
            live = _live(current, key, if_match)
            return moved(live, version=version, description=description, tags=tags, pinned=pinned, stamp=self._stamp())

        key = AliasKey(tenant, name)
        return self._commit(key, change)

    def delete(
        self, tenant: str, name: str, *, version: Version | None = None, if_match: str | None = None
    ) -> list[Version]:
        """Forgets the alias, or one older version of it. Returns the versions no alias refers to any more: their bytes
        are still there, ``destroy`` frees them.

        Raises AdapterNotFound, CatalogConflict (also for the current version), StorageFull."""
        forgotten: frozenset[Version] = frozenset()

        def change(current: AliasRecord | None) -> AliasRecord:
            nonlocal forgotten
            live = _live(current, key, if_match)
            if version is None:
                forgotten = live.versions
                return tombstone(live, stamp=self._stamp())
            forgotten = frozenset([version])
            return without_version(live, version, stamp=self._stamp())

        key = AliasKey(tenant, name)
        self._commit(key, change)
        return sorted(forgotten - self._catalog.referenced_versions())

    def subscribe(self, on_change: Callable[[AliasRecord], None]) -> None:
        """``on_change`` is called with every record another replica changed, on a thread of the store; it must return
        soon. Subscribe before ``start``."""
        self._on_change.append(on_change)

    # Bytes.

    def hold(self, version: Version) -> None:
        """A claim on the version, so that ``destroy`` waits for ``unhold``. Loads nothing."""
        self._claims.add(version)

    def unhold(self, version: Version) -> None:
        self._claims.end(version)

    def acquire(self, version: Version) -> Adapter:
        """The adapter in host memory, kept there until ``release``. Concurrent calls share one load.

        Raises AdapterUnavailable (the bytes cannot be had now), BudgetExceeded."""
        self._claims.add(version)
        try:
            adapter = self._host.acquire(version)
            if adapter is not None:
                self._observer.hit("host")
                return adapter
            self._observer.miss("host")
            while adapter is None:
                loaded, led = self._flights.run(version, lambda: self._host.insert(self._load(version)))
                adapter = loaded if led else self._host.acquire(version)  # the leader's hold is its own
        except BaseException:
            self._claims.end(version)
            raise
        return adapter

    def release(self, adapter: Adapter) -> None:
        """Ends the hold of one ``acquire``."""
        self._host.release(adapter)
        self._claims.end(adapter.version)

    def is_resident(self, version: Version) -> bool:
        """True if ``acquire`` would find it in host memory. Never blocks on a load."""
        return self._host.is_resident(version)

    def export(self, version: Version) -> Adapter:
        """The adapter over its mapped files, without a place in host memory. Raises AdapterUnavailable."""
        with self._claims.claim(version):
            return self._load(version)

    def destroy(self, version: Version, *, timeout_s: float) -> bool:
        """Waits until nobody holds the version, then frees it on every tier; host memory is free on return.

        False, having freed nothing, if some alias refers to it (again). Raises AdapterInUse after ``timeout_s``: it
        leaves host memory when its last holder lets go, and the disk at the next start."""
        try:
            with self._claims.remove(version, timeout_s=timeout_s):
                if version in self._catalog.referenced_versions():
                    return False
                self._host.drop(version)
                self._disk.remove(version)
        except AdapterInUse:
            self._host.drop(version)
            raise
        self._tell_disk()
        return True

    def describe(self) -> dict[str, Any]:
        """What is resident where, as plain JSON values."""
        return {"host": self._host.describe(), "disk": self._disk.describe(), "claims": self._claims.claimed()}

    # Below: how.

    def _commit(self, key: AliasKey, change: Callable[[AliasRecord | None], AliasRecord]) -> AliasRecord:
        """Replaces the record by what ``change`` makes of it, as one step."""
        with self._catalog.lock:
            record = change(self._catalog.find(key))
            self._catalog.adopt(record)
        self._host.set_pinned(self._catalog.pinned_versions())
        return record

    def _load(self, version: Version) -> Adapter:
        manifest = self._disk.manifest(version)
        if manifest is None:
            self._observer.miss("disk")
            raise AdapterUnavailable(version, reason="its bytes are not on this disk")
        index_set = self._host.index_set(manifest.index_set) or self._disk.load_index_set(manifest.index_set)
        values = self._disk.load_values(manifest.values)
        if index_set is None or values is None:
            self._observer.miss("disk")
            raise AdapterUnavailable(version, reason="a file of it is missing on this disk")
        self._observer.hit("disk")
        return manifest.assemble(index_set, values)

    def _collect_garbage(self) -> None:
        """Removes what no alias refers to: uploads that were cut off before their alias moved, deletes that were cut
        off after. Keeps everything if some record could not be read."""
        if not self._catalog.is_complete:
            return
        num_files = self._disk.collect(self._catalog.referenced_versions() | self._claims.claimed().keys())
        if num_files:
            log.info("removed %d files of adapters that no alias refers to", num_files)

    def _stamp(self) -> Stamp:
        return Stamp(self._writer, time.time())

    def _tell_disk(self) -> None:
        self._observer.held("disk", **self._disk.describe())


def _key(tenant: str, name: str) -> AliasKey:
    check_name(name)
    check_name(tenant, field="tenant")
    return AliasKey(tenant, name)


def _live(current: AliasRecord | None, key: AliasKey, if_match: str | None) -> AliasRecord:
    if current is None or current.deleted:
        raise AdapterNotFound(key.name)
    check_match(current, key, if_match)
    return current
