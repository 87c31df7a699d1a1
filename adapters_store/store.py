"""The store: names, bytes and tiers behind one door."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from typing import Any

from adapters_store.adapter import Adapter, Fingerprint, Version
from adapters_store.alias import AliasKey, AliasRecord, Writer, check_name, history_entry
from adapters_store.catalog import Catalog
from adapters_store.claims import Claims
from adapters_store.errors import AdapterStoreError
from adapters_store.format import ParsedUpload
from adapters_store.names import Names
from adapters_store.open_peers import open_peers
from adapters_store.removal import Removal
from adapters_store.store_config import StoreConfig
from adapters_store.supply import Supply
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.host import HostTier
from adapters_store.tiers.observer import SilentObserver, TierObserver


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """``created``: the alias did not know this version before. ``write_s``: until the bytes were on disk and offered to
    the other replicas; what came then made the name point at them."""

    record: AliasRecord
    created: bool
    write_s: float


class AdapterStore:
    """Every method may be called on any thread; those that read or write bytes block it.

    ``base`` keeps replicas that serve different bases apart when they share a Redis.
    """

    def __init__(
        self, config: StoreConfig, base: Fingerprint | None = None, observer: TierObserver | None = None
    ) -> None:
        """Takes the data directory. Raises DataDirLocked, EmbeddedRedisUnavailable."""
        observer = observer or SilentObserver()
        self._data_dir = DataDir(config.data_dir)
        writer = Writer(secrets.token_hex(8))
        try:
            self._catalog = Catalog(self._data_dir.catalog, tmp_dir=self._data_dir.tmp)
            self._disk = DiskTier(self._data_dir)
            self._peers = open_peers(
                config.redis,
                base=base,
                writer=writer,
                data_dir=self._data_dir,
                catalog=self._catalog,
                disk=self._disk,
                observer=observer,
            )
        except BaseException:
            self._data_dir.close()
            raise
        self._host = HostTier(config.host_budget_bytes, observer)
        self._claims = Claims()
        self._pins_lock = Lock()
        self._on_gone: list[Callable[[Version], object]] = []
        self._names = Names(self._catalog, self._peers, writer, self.applied)
        self._supply = Supply(self._host, self._disk, self._peers, self._claims, observer)
        self._removal = Removal(self._catalog, self._host, self._disk, self._peers, self._claims)

    def start(self) -> None:
        """Returns when the names are reconciled with the other replicas, or Redis turned out not to be there."""
        self._follow_pins()
        if not self._peers.is_shared:
            self._removal.collect_once()
        self._peers.start(self)
        self._supply.tell_disk()

    def close(self) -> None:
        """Stops the Redis side and gives the data directory back. Adapters still held stay usable."""
        try:
            self._peers.close()
        finally:
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
        started = perf_counter()
        key = _key(tenant, name)
        version = parsed.adapter.version
        change = self._names.upload_to(key, parsed, description=description, tags=tags, if_match=if_match)
        self._names.check(key, change)  # refuse before anything is written
        try:
            with self._claims.claim(version):
                self._disk.write(parsed.adapter)
                self._peers.offer(parsed.adapter)
                write_s = perf_counter() - started
                before, record = self._names.commit(key, change)
        except AdapterStoreError:
            self._removal.destroy_unheld([version])
            raise
        self._follow_pins()
        self._let_go(self._names.forgotten(before, record))  # a history has its limit
        self._removal.retry()
        self._supply.tell_disk()
        created = before is None or version not in before.versions
        return PutResult(record=record, created=created, write_s=write_s)

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

        record = self._names.move(
            AliasKey(tenant, name),
            version=version,
            description=description,
            tags=tags,
            pinned=pinned,
            if_match=if_match,
        )
        self._follow_pins()
        return record

    def delete(
        self, tenant: str, name: str, *, version: Version | None = None, if_match: str | None = None
    ) -> list[Version]:
        """Forgets the alias, or one older version of it. Returns the versions no alias refers to any more: their bytes
        are still there, ``destroy`` frees them.

        Raises AdapterNotFound, CatalogConflict (also for the current version), StorageFull."""
        unreferenced = self._names.delete(AliasKey(tenant, name), version=version, if_match=if_match)
        self._follow_pins()
        return unreferenced

    def subscribe(self, on_gone: Callable[[Version], object]) -> None:
        """``on_gone`` is called with every version that no alias refers to any more, but for those that ``delete``
        returned, on any thread; it must return soon. Subscribe before ``start``."""
        self._on_gone.append(on_gone)

    # Bytes.

    def hold(self, version: Version) -> None:
        """A claim on the version, so that ``destroy`` waits for ``unhold``. Loads nothing."""
        self._claims.add(version)

    def unhold(self, version: Version) -> None:
        self._claims.end(version)

    def acquire(self, version: Version) -> Adapter:
        """The adapter in host memory, kept there until ``release``. Concurrent calls share one load.

        Raises AdapterUnavailable (the bytes cannot be had now), BlobCorrupt (the disk's are damaged, and there are no
        others), BudgetExceeded."""
        return self._supply.acquire(version)

    def check_fits(self, versions: Sequence[Version]) -> None:
        """Raises NeverFits if host memory could not hold them all at once, even if it held nothing else.

        Raises AdapterUnavailable, BlobCorrupt."""
        self._host.check_fits([self._supply.load(version) for version in versions])

    def release(self, adapter: Adapter) -> None:
        """Ends the hold of one ``acquire``."""
        self._supply.release(adapter)

    def export(self, version: Version) -> Adapter:
        """The adapter over its mapped files, without a place in host memory.

        Raises AdapterUnavailable, BlobCorrupt."""
        return self._supply.load(version)

    def destroy(self, version: Version, *, timeout_s: float) -> bool:
        """Waits until nobody holds the version, then frees it on every tier; host memory is free on return.

        False, having freed nothing, if some alias refers to it (again). Raises AdapterInUse after ``timeout_s``: it
        leaves host memory when its last holder lets go, and the disk soon after, at the latest at the next start."""
        is_destroyed = self._removal.destroy(version, timeout_s=timeout_s)
        self._supply.tell_disk()
        return is_destroyed

    def describe(self) -> dict[str, Any]:
        """What is resident where, as plain JSON values."""
        return {
            "host": self._host.describe(),
            "disk": self._disk.describe(),
            "redis": {"up": self._peers.is_up},
            "claims": self._claims.claimed(),
        }

    # As the listener of the peers, on their thread.

    def applied(self, replaced: AliasRecord | None) -> None:
        self._follow_pins()
        self._let_go(replaced.versions - self._catalog.referenced_versions() if replaced else ())
        self._supply.tell_disk()

    def reconciled(self) -> None:
        self._removal.collect_once()

    def fetched(self, versions: Set[Version]) -> None:
        self._removal.destroy_unheld(versions - self._catalog.referenced_versions())
        self._supply.tell_disk()

    def idle(self) -> None:
        self._removal.retry()

    def _let_go(self, unreferenced: Iterable[Version]) -> None:
        for version in unreferenced:
            for on_gone in self._on_gone:
                on_gone(version)
            self._removal.destroy_unheld([version])

    def _follow_pins(self) -> None:
        with self._pins_lock:  # or an older set could be told after a newer one
            self._host.set_pinned(self._catalog.pinned_versions())


def _key(tenant: str, name: str) -> AliasKey:
    check_name(name)
    check_name(tenant, field="tenant")
    return AliasKey(tenant, name)
