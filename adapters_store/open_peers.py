"""Puts the Redis side together as the settings say."""

from __future__ import annotations

from adapters_store.adapter import Fingerprint
from adapters_store.alias import Writer
from adapters_store.blob_exchange import BlobExchange
from adapters_store.catalog import Catalog
from adapters_store.peers import Alone, Peers
from adapters_store.replication import Replication
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from adapters_store.tiers.observer import TierObserver
from adapters_store.tiers.redis_aliases import RedisAliases
from adapters_store.tiers.redis_blobs import RedisBlobs
from adapters_store.tiers.redis_endpoint import EmbeddedEndpoint, UrlEndpoint
from adapters_store.tiers.redis_link import Endpoint, RedisLink
from adapters_store.tiers.redis_settings import RedisSettings

FINGERPRINT_CHARS = 12


def open_peers(
    settings: RedisSettings,
    *,
    base: Fingerprint | None,
    writer: Writer,
    data_dir: DataDir,
    catalog: Catalog,
    disk: DiskTier,
    observer: TierObserver,
) -> Peers:
    """Raises EmbeddedRedisUnavailable. Nothing is connected before ``start``."""
    if settings.mode == "off":
        return Alone()
    endpoint: Endpoint = (
        EmbeddedEndpoint(data_dir.redis, settings) if settings.mode == "embedded" else UrlEndpoint(settings)
    )
    link = RedisLink(endpoint, settings, prefix=key_prefix(base), observer=observer)
    blobs = RedisBlobs(
        link, values_budget_bytes=settings.values_budget_bytes, replica=data_dir.replica_id, observer=observer
    )
    exchange = BlobExchange(link, blobs, disk, origin=writer, is_shared=settings.mode == "url", observer=observer)
    return Replication(link, RedisAliases(link, origin=writer), exchange, catalog, origin=writer)


def key_prefix(base: Fingerprint | None) -> str:
    """Keeps replicas of different bases apart in one Redis."""
    return f"shira:{base.removeprefix('sha256:')[:FINGERPRINT_CHARS] if base else 'any'}:"
