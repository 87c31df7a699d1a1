"""What the store needs of the other replicas, and what it does without any."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Protocol

from adapters_store.adapter import Adapter, Version
from adapters_store.alias import AliasRecord
from adapters_store.tiers.manifest import StoredManifest


class PeerListener(Protocol):
    """Called on a thread of the peers'."""

    def applied(self, replaced: AliasRecord | None) -> None:
        """A record that came from another replica is in the catalog now, in place of ``replaced``."""
        ...

    def reconciled(self) -> None:
        """Every name that Redis knows is in the catalog."""
        ...

    def fetched(self, versions: Set[Version]) -> None:
        """Those of these versions that could be had are on the disk now, deleted meanwhile or not."""
        ...

    def idle(self) -> None:
        """Now and then, while the link is up."""
        ...


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """``newer``: the record that stands in the way. ``is_shared``: the record is with the other replicas.

    Neither: they cannot be reached; the next reconciliation settles it."""

    newer: AliasRecord | None = None
    is_shared: bool = False


class Peers(Protocol):
    """Nothing here raises for a Redis that is down, slow, empty or full."""

    @property
    def is_up(self) -> bool: ...

    @property
    def is_shared(self) -> bool:
        """Other replicas may be there, so what this one does not know may still be referred to by them."""
        ...

    def start(self, listener: PeerListener) -> None: ...

    def close(self) -> None: ...

    def commit(self, before: AliasRecord | None, record: AliasRecord) -> CommitOutcome:
        """Compare-and-set of a record made from ``before``, and its announcement."""
        ...

    def offer(self, adapter: Adapter) -> None:
        """Shows the others an upload that is on this disk."""
        ...

    def fetch(self, version: Version) -> Adapter | None:
        """Brings an adapter to this disk; None if it cannot be had now."""
        ...

    def forget(self, manifest: StoredManifest) -> None:
        """A version is destroyed: nobody shall keep its bytes for us."""
        ...


class Alone:
    """No Redis at all."""

    is_up = False
    is_shared = False

    def start(self, listener: PeerListener) -> None:
        pass

    def close(self) -> None:
        pass

    def commit(self, before: AliasRecord | None, record: AliasRecord) -> CommitOutcome:
        return CommitOutcome()

    def offer(self, adapter: Adapter) -> None:
        pass

    def fetch(self, version: Version) -> Adapter | None:
        return None

    def forget(self, manifest: StoredManifest) -> None:
        pass
