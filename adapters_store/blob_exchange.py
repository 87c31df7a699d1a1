"""Adapter bytes between this replica's disk and Redis."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from threading import Condition
from time import monotonic

from torch import Tensor

from adapters_store.adapter import Adapter, IndexSet, Version
from adapters_store.errors import BlobCorrupt, StorageFull
from adapters_store.format import decode_index_set, decode_values, encode_index_set, encode_values
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.manifest import StoredManifest, manifest_of, read_manifest
from adapters_store.tiers.observer import TierObserver
from adapters_store.tiers.redis_blobs import BlobKind, RedisBlobs
from adapters_store.tiers.redis_link import RedisDown, RedisLink
from adapters_store.tiers.single_flight import SingleFlight

log = logging.getLogger(__name__)
WANT_TIMEOUT_S = 5.0


class BlobExchange:
    """Any thread may call it. ``is_shared``: other replicas may use this Redis, so uploads are pinned for them, and
    what Redis has evicted is asked of them."""

    def __init__(
        self,
        link: RedisLink,
        blobs: RedisBlobs,
        disk: DiskTier,
        *,
        origin: str,
        is_shared: bool,
        observer: TierObserver,
    ) -> None:
        self._link, self._blobs, self._disk = link, blobs, disk
        self._origin = origin
        self.is_shared = is_shared
        self._observer = observer
        self._flights: SingleFlight[Version, Adapter | None] = SingleFlight()
        self._heard = Condition()
        self._num_waiting: Counter[Version] = Counter()  # calls that wait for an answer
        self._num_heard: Counter[Version] = Counter()  # answers since the first of them asked
        self._is_closed = False

    def close(self) -> None:
        """Ends every wait."""
        with self._heard:
            self._is_closed = True
            self._heard.notify_all()

    def offer(self, adapter: Adapter) -> None:
        """Offers an upload that this disk has; a Redis that is down or full is no error."""
        if not self._link.is_up:
            return
        try:
            self._offer(manifest_of(adapter), adapter.index_set, adapter.values, evict=True)
        except RedisDown:
            log.debug("%s is not offered: Redis is down", adapter.version)

    def offer_all(self, versions: Iterable[Version]) -> None:
        """Offers what this disk has of them; values only where there are other replicas, while there is room.

        Raises RedisDown."""
        has_room = self.is_shared
        for version in versions:
            manifest = self._disk.manifest(version)
            if manifest is None:
                continue
            if self._blobs.has("values", manifest.values):
                self._blobs.note_held(manifest.values)
            elif has_room:
                has_room = self._offer_from_disk(manifest, evict=False)
            self._offer_names(manifest)

    def offer_wanted(self, version: Version) -> None:
        """Answers another replica that looks for these bytes. Raises RedisDown."""
        manifest = self._disk.manifest(version)
        if manifest is not None and self._offer_from_disk(manifest, evict=True):
            self._link.call("PUBLISH", self._link.news_channel, f"{self._origin} have {version}")

    def fetch_missing(self, versions: Iterable[Version]) -> None:
        """Brings to this disk what it lacks of them and Redis has, and asks the other replicas for the rest."""
        for version in versions:
            if self._disk.manifest(version) is None and self._fetch_once(version) is None and self.is_shared:
                self._ask(version)

    def fetch(self, version: Version) -> Adapter | None:
        """The adapter from Redis, written to this disk on the way if that has room. None if it cannot be had now.

        Concurrent calls share one transfer. What Redis lacks, another replica gets WANT_TIMEOUT_S to bring."""
        deadline = monotonic() + WANT_TIMEOUT_S
        adapter = self._fetch_once(version)
        while adapter is None and self.is_shared and self._ask_and_wait(version, deadline):
            adapter = self._fetch_once(version)  # None again if Redis had to evict it at once
        if adapter is None:
            self._observer.miss("redis")
        else:
            self._observer.hit("redis")
        return adapter

    def forget(self, manifest: StoredManifest) -> None:
        """Removes a destroyed version's bytes, as far as no version on this disk uses them."""
        rest = [other for other in self._disk.manifests() if other.version != manifest.version]
        self._discard("manifest", manifest.version)
        if all(other.values != manifest.values for other in rest):
            self._discard("values", manifest.values)
        if all(other.index_set != manifest.index_set for other in rest):
            self._discard("index_set", manifest.index_set)

    def heard_of(self, version: Version) -> None:
        """Another replica has just put these bytes into Redis."""
        with self._heard:
            if self._num_waiting[version]:
                self._num_heard[version] += 1
                self._heard.notify_all()

    def _ask_and_wait(self, version: Version, deadline: float) -> bool:
        """True once another replica has answered, False if none does before the deadline."""
        with self._heard:
            self._num_waiting[version] += 1
            num_heard = self._num_heard[version]
        try:
            num_listeners = self._ask(version)
            if num_listeners < 2:  # nobody but ourselves
                return False
            with self._heard:
                remaining_s = max(0.0, deadline - monotonic())
                self._heard.wait_for(lambda: self._is_closed or self._num_heard[version] > num_heard, remaining_s)
                return self._num_heard[version] > num_heard and not self._is_closed
        finally:
            with self._heard:
                self._num_waiting[version] -= 1
                if not self._num_waiting[version]:
                    del self._num_waiting[version]
                    self._num_heard.pop(version, None)

    def _ask(self, version: Version) -> int:
        """How many replicas heard the question, this one included."""
        try:
            return int(self._link.call("PUBLISH", self._link.news_channel, f"{self._origin} want {version}"))
        except RedisDown:
            return 0

    def _fetch_once(self, version: Version) -> Adapter | None:
        adapter, _ = self._flights.run(version, lambda: self._fetch(version))
        return adapter

    def _fetch(self, version: Version) -> Adapter | None:
        kind: BlobKind = "manifest"
        digest: str = version
        try:
            text = self._blobs.fetch(kind, version)
            if text is None:
                return None
            manifest = read_manifest(bytes(text), version, where="Redis")
            kind, digest = "index_set", manifest.index_set
            index_set = self._index_set(manifest)
            kind, digest = "values", manifest.values
            values = self._values(manifest)
            if index_set is None or values is None:
                return None
            adapter = manifest.assemble(index_set, values)
        except BlobCorrupt as error:
            log.warning("%s; it is removed there", error)
            self._discard(kind, digest)
            return None
        except RedisDown:
            return None
        try:
            self._disk.write(adapter)
            self._blobs.note_held(manifest.values)
        except StorageFull as error:
            log.warning("%s is used from memory alone: %s", version, error)
        except RedisDown:
            log.debug("%s is not noted as held here", version)
        return adapter

    def _discard(self, kind: BlobKind, digest: str) -> None:
        try:
            self._blobs.discard(kind, digest)
        except RedisDown:
            log.debug("%s %s stays in Redis", kind, digest)

    def _index_set(self, manifest: StoredManifest) -> IndexSet | None:
        held = self._index_set_on_disk(manifest)
        if held is not None:
            return held
        blob = self._blobs.fetch("index_set", manifest.index_set)
        return None if blob is None else decode_index_set(blob, manifest.index_set, where="Redis")

    def _index_set_on_disk(self, manifest: StoredManifest) -> IndexSet | None:
        """None also if it is damaged there."""
        try:
            return self._disk.load_index_set(manifest.index_set)
        except BlobCorrupt as error:
            log.error("%s", error)
            return None

    def _values(self, manifest: StoredManifest) -> Tensor | None:
        blob = self._blobs.fetch("values", manifest.values)
        return None if blob is None else decode_values(blob, manifest.values, where="Redis")

    def _offer_names(self, manifest: StoredManifest) -> None:
        """The manifest and the index set, which are always offered."""
        if not self._blobs.has("index_set", manifest.index_set):
            index_set = self._index_set_on_disk(manifest)
            if index_set is not None:
                self._blobs.offer("index_set", manifest.index_set, encode_index_set(index_set))
        self._blobs.offer("manifest", manifest.version, [manifest.text])

    def _offer_from_disk(self, manifest: StoredManifest, *, evict: bool) -> bool:
        try:
            index_set = self._disk.load_index_set(manifest.index_set)
            values = self._disk.load_values(manifest.values)
        except BlobCorrupt as error:
            log.error("%s is not offered: %s", manifest.version, error)
            return False
        return index_set is not None and values is not None and self._offer(manifest, index_set, values, evict=evict)

    def _offer(self, manifest: StoredManifest, index_set: IndexSet, values: Tensor, *, evict: bool) -> bool:
        fits = self._blobs.offer("index_set", index_set.digest, encode_index_set(index_set))
        fits = (
            self._blobs.offer_values(manifest.values, encode_values(values), evict=evict, pin=self.is_shared) and fits
        )
        return self._blobs.offer("manifest", manifest.version, [manifest.text]) and fits
