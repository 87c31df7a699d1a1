"""Frees the bytes of versions that no alias refers to any more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from adapters_store.adapter import Version
from adapters_store.catalog import Catalog
from adapters_store.claims import Claims
from adapters_store.errors import AdapterInUse
from adapters_store.peers import Peers
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.host import HostTier

log = logging.getLogger(__name__)


class Removal:
    """Any thread may call it."""

    def __init__(self, catalog: Catalog, host: HostTier, disk: DiskTier, peers: Peers, claims: Claims) -> None:
        self._catalog, self._host, self._disk, self._peers, self._claims = catalog, host, disk, peers, claims
        self._overdue: set[Version] = set()  # held when they were to go
        self._is_collected = False

    def destroy(self, version: Version, *, timeout_s: float) -> bool:
        """Waits until nobody holds the version, then frees it on every tier; host memory is free on return.

        False, having freed nothing, if some alias refers to it (again). Raises AdapterInUse after ``timeout_s``: it
        leaves host memory when its last holder lets go, the disk at some ``retry`` after, at the latest at the next
        start."""
        try:
            with self._claims.remove(version, timeout_s=timeout_s):
                self._overdue.discard(version)
                if version in self._catalog.referenced_versions():
                    return False
                self._host.drop(version)
                manifest = self._disk.remove(version)
                if manifest is not None:
                    self._peers.forget(manifest)
        except AdapterInUse:
            self._host.drop(version)
            self._overdue.add(version)
            raise
        return True

    def destroy_unheld(self, versions: Iterable[Version]) -> None:
        """As ``destroy`` for each, without waiting: what is held stays for ``retry``."""
        for version in versions:
            try:
                self.destroy(version, timeout_s=0)
            except AdapterInUse:
                log.debug("%s is held and goes later", version)

    def retry(self) -> None:
        self.destroy_unheld(list(self._overdue))

    def collect_once(self) -> None:
        """The first call removes from the disk what no alias refers to: uploads cut off before their alias moved,
        deletes cut off after. Keeps everything if some record could not be read."""
        if self._is_collected or not self._catalog.is_complete:
            return
        self._is_collected = True
        num_files = self._disk.collect(self._needed)
        if num_files:
            log.info("removed %d files of adapters that no alias refers to", num_files)

    def _needed(self) -> set[Version]:
        """Claims first: an upload ends its claim once its alias refers to the version, so one of the two shows it."""
        claimed = self._claims.claimed()
        return self._catalog.referenced_versions() | claimed.keys()
