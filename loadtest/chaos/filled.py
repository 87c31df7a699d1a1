"""Whether a Redis that was emptied, or is new, has been filled again."""

from __future__ import annotations

from collections.abc import Iterable

import redis


def is_filled(client: redis.Redis, names: Iterable[str]) -> bool:
    """It knows all of these names."""
    tables = list(client.scan_iter("shira:*:aliases"))
    return any(all(client.hexists(table, f"default/{name}") for name in names) for table in tables)
