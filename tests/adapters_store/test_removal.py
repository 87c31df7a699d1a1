"""What a removal must never take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapters_store.adapter import Version
from adapters_store.alias import AliasKey, Stamp, Writer, uploaded
from adapters_store.catalog import Catalog
from adapters_store.claims import Claims
from adapters_store.peers import Alone
from adapters_store.removal import Removal
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.host import HostTier
from adapters_store.tiers.observer import SilentObserver
from tests.adapters_store.small_adapters import small_adapter


class CatalogWithEvent(Catalog):
    after_read: Callable[[], None]

    def referenced_versions(self) -> set[Version]:
        found = super().referenced_versions()
        self.after_read()
        return found


class ClaimsWithEvent(Claims):
    after_read: Callable[[], None]

    def claimed(self) -> dict[Version, int]:
        found = super().claimed()
        self.after_read()
        return found


def test_an_upload_that_is_acknowledged_during_the_collection_stays(tmp_path: Path) -> None:
    """Aliases were read first and claims after them: what moved from claim to alias in between was in neither."""
    data_dir = DataDir(tmp_path)
    catalog = CatalogWithEvent(data_dir.catalog, tmp_dir=data_dir.tmp)
    disk, claims = DiskTier(data_dir), ClaimsWithEvent()
    removal = Removal(catalog, HostTier(1 << 20, SilentObserver()), disk, Alone(), claims)
    version = disk.write(small_adapter()).version
    claims.add(version)

    def acknowledge() -> None:
        if version not in Claims.claimed(claims):
            return
        catalog.adopt(
            uploaded(
                None,
                AliasKey("default", "pirate"),
                version=version,
                base_verified=True,
                card=None,
                description=None,
                tags=None,
                stamp=Stamp(Writer("w"), 0.0),
            )
        )
        claims.end(version)

    catalog.after_read = claims.after_read = acknowledge
    removal.collect_once()
    assert disk.manifest(version) is not None
    data_dir.close()
