"""Names and bytes between this replica and the others, by way of Redis.

Redis is never the only place of anything: alias records are in every replica's catalog, bytes on the disk of whoever
uploaded or fetched them. So everything here may fail at any moment, and a full reconciliation, after every connect,
whenever Redis was found emptied and some time after a task failed, makes up for all that was missed: the highest
(revision, writer) wins, tombstones included.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from threading import Condition, Event, Thread
from time import monotonic

from adapters_store.adapter import Adapter, Version
from adapters_store.alias import AliasKey, AliasRecord, decode_record, encode_record
from adapters_store.blob_exchange import BlobExchange
from adapters_store.catalog import Catalog
from adapters_store.peers import CommitOutcome, PeerListener
from adapters_store.tiers.manifest import StoredManifest
from adapters_store.tiers.redis_aliases import RedisAliases, SharedRecord
from adapters_store.tiers.redis_link import RedisDown, RedisFull, RedisLink

log = logging.getLogger(__name__)
FIRST_PASS_TIMEOUT_S = 10.0
RETRY_AFTER_S = 5.0


class Replication:
    """A worker thread applies what other replicas announce and reconciles; ``commit`` may be called on any thread.

    Satisfies ``Peers``.
    """

    def __init__(
        self, link: RedisLink, aliases: RedisAliases, exchange: BlobExchange, catalog: Catalog, *, origin: str
    ) -> None:
        self._link, self._aliases, self._exchange, self._catalog = link, aliases, exchange, catalog
        self._origin = origin
        self._listener: PeerListener
        self._changed = Condition()
        self._news: set[AliasKey] = set()  # changed elsewhere
        self._unsent: set[AliasKey] = set()  # changed here while Redis had no room for it
        self._wanted: set[Version] = set()  # another replica looks for their bytes
        self._arrived: set[Version] = set()  # another replica has brought their bytes
        self._must_reconcile = False
        self._retry_at: float | None = None  # a task failed, and what it had to do is made up for then
        self._is_idle_due = False
        self._stopping = False
        self._passed = Event()
        self._thread: Thread | None = None

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    @property
    def is_shared(self) -> bool:
        return self._exchange.is_shared

    def start(self, listener: PeerListener) -> None:
        """Returns once the names are reconciled, or Redis turned out not to be there."""
        self._listener = listener
        self._thread = Thread(target=self._work, name="shira-replication", daemon=True)
        self._thread.start()
        self._link.start(self)
        if self._link.is_up:
            self._passed.wait(FIRST_PASS_TIMEOUT_S)

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._link.close()
        self._exchange.close()
        if self._thread is not None:
            self._thread.join()

    def commit(self, before: AliasRecord | None, record: AliasRecord) -> CommitOutcome:
        try:
            held = self._aliases.put(_shared(record), unless_newer_than=before.order if before else (0, ""))
        except RedisDown:
            return CommitOutcome()
        except RedisFull:
            log.warning("Redis is full: the change of %s is announced later", record.name)
            with self._changed:
                self._unsent.add(record.key)
            return CommitOutcome()
        return CommitOutcome(is_shared=True) if held is None else CommitOutcome(newer=_decode(held))

    def offer(self, adapter: Adapter) -> None:
        self._exchange.offer(adapter)

    def fetch(self, version: Version) -> Adapter | None:
        return self._exchange.fetch(version)

    def forget(self, manifest: StoredManifest) -> None:
        self._exchange.forget(manifest)

    # On the link's thread.

    def up(self) -> None:
        with self._changed:
            self._must_reconcile = True
            self._changed.notify_all()

    def beat(self) -> None:
        with self._changed:
            self._is_idle_due = True
            if self._retry_at is not None and monotonic() >= self._retry_at:
                self._must_reconcile, self._retry_at = True, None
            self._changed.notify_all()

    def news(self, message: bytes) -> None:
        """``<origin> alias <tenant>/<name>``, ``<origin> want <version>``, ``<origin> have <version>``."""
        origin, _, rest = message.decode(errors="replace").partition(" ")
        kind, _, what = rest.partition(" ")
        if origin == self._origin:
            return
        if kind == "have":
            self._exchange.heard_of(Version(what))
        with self._changed:
            if kind == "alias":
                self._news.add(_key(what))
            elif kind == "have":
                self._arrived.add(Version(what))
            elif kind == "want":
                self._wanted.add(Version(what))
            self._changed.notify_all()

    # On the worker.

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._stopping:
                    return
                must_reconcile, self._must_reconcile = self._must_reconcile, False
                is_idle_due, self._is_idle_due = self._is_idle_due, False
                news, self._news = self._news, set()
                wanted, self._wanted = self._wanted, set()
                arrived, self._arrived = self._arrived, set()
            try:
                if must_reconcile:
                    self._reconcile()
                self._apply_news(news)
                for version in wanted:
                    self._exchange.offer_wanted(version)
                self._fetch_missing(arrived & self._catalog.referenced_versions())
                if is_idle_due:
                    self._send_unsent()
                    self._listener.idle()
            except RedisDown:
                log.debug("replication stops until the link is back")
            except Exception:  # the worker outlives every task
                log.exception("replication failed and starts over in %g s", RETRY_AFTER_S)
                with self._changed:
                    self._retry_at = monotonic() + RETRY_AFTER_S

    def _has_work(self) -> bool:
        tasks = (self._must_reconcile, self._is_idle_due, self._news, self._wanted, self._arrived)
        return self._stopping or any(tasks)

    def _reconcile(self) -> None:
        theirs: dict[str, SharedRecord] = {}
        for shared in self._aliases.all():
            theirs[shared.field] = shared
            self._apply(shared)
        for record in self._catalog.all():
            shared_record = theirs.get(_field(record.key))
            if shared_record is None or shared_record.order < record.order:
                self._push(record)
        self._passed.set()
        self._listener.reconciled()
        self._exchange.offer_all(self._catalog.referenced_versions())
        self._fetch_missing(self._catalog.referenced_versions())

    def _apply_news(self, news: set[AliasKey]) -> None:
        for key in news:
            shared = self._aliases.get(_field(key))
            if shared is None:
                continue
            self._apply(shared)
            record = self._catalog.find(key)  # which a change made here may have met before this did
            if record is not None:
                self._fetch_missing(record.versions)

    def _fetch_missing(self, versions: Set[Version]) -> None:
        if versions:
            self._exchange.fetch_missing(versions)
            self._listener.fetched(versions)

    def _apply(self, shared: SharedRecord) -> None:
        record = _decode(shared)
        if record is None:
            return
        replaced = self._catalog.adopt(record)
        if replaced is not None:
            self._listener.applied(replaced.record)

    def _push(self, record: AliasRecord) -> None:
        try:
            newer = self._aliases.put(_shared(record), unless_newer_than=record.order)
        except RedisFull:
            with self._changed:
                self._unsent.add(record.key)
            return
        if newer is not None:
            self._apply(newer)

    def _send_unsent(self) -> None:
        with self._changed:
            unsent, self._unsent = self._unsent, set()
        for key in unsent:
            record = self._catalog.find(key)
            if record is not None:
                self._push(record)


def _field(key: AliasKey) -> str:
    return f"{key.tenant}/{key.name}"


def _key(field: str) -> AliasKey:
    tenant, _, name = field.partition("/")
    return AliasKey(tenant, name)


def _shared(record: AliasRecord) -> SharedRecord:
    return SharedRecord(_field(record.key), record.order, encode_record(record))


def _decode(shared: SharedRecord) -> AliasRecord | None:
    """None, and a line in the log, for what is not the record it says it is."""
    try:
        record = decode_record(shared.payload)
    except ValueError as error:
        log.error("Redis holds no record as %s: %s", shared.field, error)
        return None
    if _field(record.key) != shared.field or record.order != shared.order:
        log.error("Redis holds the record of another name or revision as %s", shared.field)
        return None
    return record
