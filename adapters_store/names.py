"""Changes of names: each one a compare-and-set, here and with the other replicas."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from adapters_store.adapter import Version
from adapters_store.alias import (
    AliasKey,
    AliasRecord,
    Stamp,
    Writer,
    check_match,
    moved,
    taken_back,
    tombstone,
    uploaded,
    without_version,
)
from adapters_store.catalog import Catalog, Replaced
from adapters_store.errors import AdapterNotFound, CatalogConflict, StorageFull
from adapters_store.format import ParsedUpload
from adapters_store.peers import Peers

MAX_COMMIT_ATTEMPTS = 8
Change = Callable[[AliasRecord | None], AliasRecord]


class Names:
    """Any thread may call it. Every method returns the new record once it is durable here, and with the other replicas
    if they can be reached. All raise CatalogConflict when ``if_match`` is not the record's etag, and StorageFull."""

    def __init__(
        self, catalog: Catalog, peers: Peers, writer: Writer, on_overtaken: Callable[[AliasRecord | None], object]
    ) -> None:
        """``on_overtaken`` is called after a change that met the record of another replica, which is in the catalog
        now in place of the one it is given."""
        self._catalog = catalog
        self._peers = peers
        self._writer = writer
        self._on_overtaken = on_overtaken
        self._lock = Lock()

    def upload_to(
        self,
        key: AliasKey,
        parsed: ParsedUpload,
        *,
        description: str | None,
        tags: tuple[str, ...] | None,
        if_match: str | None,
    ) -> Change:
        """The change that points the alias at an upload: ``check`` it before the bytes are written, then ``commit``."""

        def change(current: AliasRecord | None) -> AliasRecord:
            check_match(current, key, if_match)
            return uploaded(
                current,
                key,
                version=parsed.adapter.version,
                base_verified=parsed.base_verified,
                card=parsed.card,
                description=description,
                tags=tags,
                stamp=self._stamp(),
            )

        return change

    def check(self, key: AliasKey, change: Change) -> None:
        """Raises what ``commit`` would raise now."""
        change(self._catalog.find(key))

    def move(
        self,
        key: AliasKey,
        *,
        version: Version | None,
        description: str | None,
        tags: tuple[str, ...] | None,
        pinned: bool | None,
        if_match: str | None,
    ) -> AliasRecord:
        """Raises AdapterNotFound (alias, or version in its history), AdapterRejected (metadata)."""

        def change(current: AliasRecord | None) -> AliasRecord:
            live = _live(current, key, if_match)
            return moved(live, version=version, description=description, tags=tags, pinned=pinned, stamp=self._stamp())

        _, record = self.commit(key, change)
        return record

    def delete(self, key: AliasKey, *, version: Version | None, if_match: str | None) -> list[Version]:
        """The versions that no alias refers to any more.

        Raises AdapterNotFound; CatalogConflict for the current version."""

        def change(current: AliasRecord | None) -> AliasRecord:
            live = _live(current, key, if_match)
            if version is None:
                return tombstone(live, stamp=self._stamp())
            return without_version(live, version, stamp=self._stamp())

        return self.forgotten(*self.commit(key, change))

    def forgotten(self, before: AliasRecord | None, after: AliasRecord) -> list[Version]:
        """The versions that no alias refers to since the change from ``before`` to ``after``."""
        versions = (before.versions if before else frozenset()) | after.versions  # which others may have changed since
        return sorted(versions - self._catalog.referenced_versions())

    def commit(self, key: AliasKey, change: Change) -> tuple[AliasRecord | None, AliasRecord]:
        """Replaces the record by what ``change`` makes of it, as one step: the record before and the one after."""
        overtaken: list[Replaced] = []
        try:
            return self._commit(key, change, overtaken)
        finally:
            for replaced in overtaken:
                self._on_overtaken(replaced.record)

    def _commit(
        self, key: AliasKey, change: Change, overtaken: list[Replaced]
    ) -> tuple[AliasRecord | None, AliasRecord]:
        with self._lock:
            for _ in range(MAX_COMMIT_ATTEMPTS):
                before = self._catalog.find(key)
                after = change(before)
                outcome = self._peers.commit(before, after)
                if outcome.newer is not None:  # try again on top of it
                    replaced = self._catalog.adopt(outcome.newer)
                    overtaken += [replaced] if replaced else []
                elif self._adopt(before, after, is_shared=outcome.is_shared):
                    return before, after
        raise CatalogConflict(key.name, expected="a quiet moment", got="changes by other replicas without end")

    def _adopt(self, before: AliasRecord | None, after: AliasRecord, *, is_shared: bool) -> bool:
        """Makes the change durable here; a change that fails here is taken back from the other replicas."""
        try:
            return self._catalog.adopt(after) is not None or is_shared  # shared, and replaced by another since
        except (StorageFull, OSError):
            if is_shared:
                self._peers.commit(after, taken_back(after, before, stamp=self._stamp()))
            raise

    def _stamp(self) -> Stamp:
        return Stamp(self._writer, time.time())


def _live(current: AliasRecord | None, key: AliasKey, if_match: str | None) -> AliasRecord:
    if current is None or current.deleted:
        raise AdapterNotFound(key.name)
    check_match(current, key, if_match)
    return current
