"""Alias records in Redis: one hash, ordered by (revision, writer), changed by compare-and-set and announced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapters_store.tiers.redis_link import RedisLink

# prefix, field, (revision, writer) that may be replaced, (revision, writer) and payload that replace it, origin
_PUT = """
local aliases = ARGV[1] .. 'aliases'
local held = redis.call('HGET', aliases, ARGV[2])
if held then
  local revision, writer = string.match(held, '^(%d+) (%S+) ')
  local limit = tonumber(ARGV[3])
  revision = revision and #revision <= 15 and tonumber(revision)
  if revision and (revision > limit or (revision == limit and writer > ARGV[4])) then return held end
end
local put = ARGV[5] .. ' ' .. ARGV[6] .. ' ' .. ARGV[7]
if held ~= put then
  redis.call('HSET', aliases, ARGV[2], put)
  redis.call('PUBLISH', ARGV[1] .. 'news', ARGV[8] .. ' alias ' .. ARGV[2])
end
return false
"""
MAX_REVISION_DIGITS = 15  # which a Lua number holds exactly
Order = tuple[int, str]


@dataclass(frozen=True, slots=True)
class SharedRecord:
    """``field`` names the alias; ``payload`` is the record, opaque here."""

    field: str
    order: Order
    payload: bytes


class RedisAliases:
    """Every method may raise RedisDown, ``put`` also RedisFull."""

    def __init__(self, link: RedisLink, *, origin: str) -> None:
        self._link = link
        self._origin = origin

    def put(self, record: SharedRecord, *, unless_newer_than: Order) -> SharedRecord | None:
        """Writes and announces the record unless Redis holds one above ``unless_newer_than``, which is returned then.

        With the order of the record it was made from, this is a compare-and-set; with its own, a reconciliation."""
        (limit_revision, limit_writer), (revision, writer) = unless_newer_than, record.order
        held = self._link.run_script(
            _PUT, record.field, limit_revision, limit_writer, revision, writer, record.payload, self._origin
        )
        return None if held is None else _parse(record.field, held)

    def get(self, field: str) -> SharedRecord | None:
        held = self._link.call("HGET", f"{self._link.prefix}aliases", field)
        return None if held is None else _parse(field, held)

    def all(self) -> Iterator[SharedRecord]:
        """Every record; one that changes meanwhile may come in either state, or twice."""
        cursor: Any = 0
        while True:
            cursor, reply = self._link.call("HSCAN", f"{self._link.prefix}aliases", cursor, "COUNT", 256)
            pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
            for field, held in pairs:
                record = _parse(field.decode(errors="replace"), held)
                if record is not None:
                    yield record
            if int(cursor) == 0:
                return


def _parse(field: str, held: bytes) -> SharedRecord | None:
    """None for what no replica of ours writes."""
    revision, _, rest = held.partition(b" ")
    writer, _, payload = rest.partition(b" ")
    if not revision.isdigit() or len(revision) > MAX_REVISION_DIGITS or not writer:
        return None
    return SharedRecord(field, (int(revision), writer.decode(errors="replace")), payload)
