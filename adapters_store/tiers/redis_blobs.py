"""Blobs in Redis: manifests, index sets and values, each under its digest.

``<prefix>blob:<kind>:<hex>`` says how long a blob is and in how many chunks; it is written after the chunks, so what
can be found is whole. Values have a byte budget of their own, kept by us: ``values:used`` (when each was last used),
``values:sizes``, ``values:pinned`` (not to be evicted: no other disk has them yet) and ``values:holders:<hex>`` (the
disks that have them). Any of it may be gone at any time; a blob of which a part is gone is a miss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from adapters_store.tiers.observer import TierObserver
from adapters_store.tiers.redis_link import RedisFull, RedisLink

log = logging.getLogger(__name__)

BlobKind = Literal["manifest", "index_set", "values"]
CHUNK_BYTES = 4 * 1024 * 1024
MAX_BLOB_BYTES = 8 * 1024 * 1024 * 1024

_DROP = """
local function drop(p, hex)
  local size = tonumber(redis.call('HGET', p .. 'values:sizes', hex) or '0')
  local blob = p .. 'blob:values:' .. hex
  redis.call('DEL', blob)
  for i = 0, math.ceil(size / CHUNK_BYTES) - 1 do redis.call('DEL', blob .. ':' .. i) end
  redis.call('HDEL', p .. 'values:sizes', hex)
  redis.call('ZREM', p .. 'values:used', hex)
  redis.call('SREM', p .. 'values:pinned', hex)
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
""".replace("CHUNK_BYTES", str(CHUNK_BYTES))
# prefix, hex, bytes, budget, may evict, pin, replica -> evicted count, or -1 if there is no room
_RESERVE = (
    _DROP
    + """
local p, hex, size, budget = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local num_evicted = 0
if redis.call('HEXISTS', p .. 'values:sizes', hex) == 0 then
  local total = size
  for _, bytes in ipairs(redis.call('HVALS', p .. 'values:sizes')) do total = total + tonumber(bytes) end
  local victims = {}
  if total > budget and ARGV[5] == '1' then
    for _, old in ipairs(redis.call('ZRANGE', p .. 'values:used', 0, -1)) do
      local whole = redis.call('EXISTS', p .. 'blob:values:' .. old) == 1
      if not whole or redis.call('SISMEMBER', p .. 'values:pinned', old) == 0 then
        victims[#victims + 1] = old
        total = total - tonumber(redis.call('HGET', p .. 'values:sizes', old) or '0')
        if total <= budget then break end
      end
    end
  end
  if total > budget then return -1 end
  for _, old in ipairs(victims) do drop(p, old) end
  num_evicted = #victims
  redis.call('HSET', p .. 'values:sizes', hex, size)
end
redis.call('ZADD', p .. 'values:used', now(), hex)
redis.call('SADD', p .. 'values:holders:' .. hex, ARGV[7])
if ARGV[6] == '1' and redis.call('SCARD', p .. 'values:holders:' .. hex) < 2 then
  redis.call('SADD', p .. 'values:pinned', hex)
end
return num_evicted
"""
)
# prefix, hex, replica
_HOLD = """
local holders = ARGV[1] .. 'values:holders:' .. ARGV[2]
redis.call('SADD', holders, ARGV[3])
if redis.call('SCARD', holders) > 1 then redis.call('SREM', ARGV[1] .. 'values:pinned', ARGV[2]) end
"""
# prefix, hex
_TOUCH = _DROP + "redis.call('ZADD', ARGV[1] .. 'values:used', 'XX', now(), ARGV[2])"
_FORGET = _DROP + "drop(ARGV[1], ARGV[2]) redis.call('DEL', ARGV[1] .. 'values:holders:' .. ARGV[2])"


class RedisBlobs:
    """Every method may raise RedisDown. Nothing read here is trusted: the caller checks the digest."""

    def __init__(self, link: RedisLink, *, values_budget_bytes: int, replica: str, observer: TierObserver) -> None:
        self._link = link
        self._values_budget_bytes = values_budget_bytes
        self._replica = replica
        self._observer = observer

    def has(self, kind: BlobKind, digest: str) -> bool:
        return bool(self._link.call("EXISTS", self._key(kind, digest)))

    def offer(self, kind: BlobKind, digest: str, parts: Sequence[bytes | memoryview]) -> bool:
        """Puts a manifest or an index set there; False if Redis is full."""
        try:
            if not self.has(kind, digest):
                self._write(self._key(kind, digest), parts)
        except RedisFull:
            log.warning("Redis is full: %s %s is not shared", kind, digest)
            return False
        return True

    def offer_values(self, digest: str, parts: Sequence[bytes | memoryview], *, evict: bool, pin: bool) -> bool:
        """Puts values there within the budget and notes that this replica's disk has them; False without room.

        ``evict``: the least recently used values may make room. ``pin``: they stay until another disk has them."""
        num_bytes = sum(len(memoryview(part).cast("B")) for part in parts)
        arguments = (_hex(digest), num_bytes, self._values_budget_bytes, int(evict), int(pin), self._replica)
        try:
            num_evicted = self._link.run_script(_RESERVE, *arguments)
            if num_evicted < 0:
                return False
            if num_evicted:
                self._observer.evicted("redis", num_evicted)
            if not self.has("values", digest):
                self._write(self._key("values", digest), parts)
        except RedisFull:
            log.warning("Redis is full: values %s are not shared", digest)
            return False
        return True

    def fetch(self, kind: BlobKind, digest: str) -> bytearray | None:
        """The blob's bytes as found, or None. One that is not whole is forgotten, so that it is offered again."""
        key = self._key(kind, digest)
        head = self._link.call("GET", key)
        if head is None:
            return None
        blob = self._read(key, head)
        if blob is None:
            self._link.call("DEL", key)
        elif kind == "values":
            self._touch(digest)
        return blob

    def note_held(self, digest: str) -> None:
        """This replica's disk has the values."""
        with suppress(RedisFull):
            self._link.run_script(_HOLD, _hex(digest), self._replica)

    def discard(self, kind: BlobKind, digest: str) -> None:
        """Removes the blob; for values also who holds them."""
        if kind == "values":
            with suppress(RedisFull):
                self._link.run_script(_FORGET, _hex(digest))
            return
        key = self._key(kind, digest)
        head = self._link.call("GETDEL", key)
        num_bytes = int(head) if head is not None and head.isdigit() else 0
        for number in range(_num_chunks(min(num_bytes, MAX_BLOB_BYTES))):
            self._link.call("DEL", f"{key}:{number}")

    def _read(self, key: str, head: bytes) -> bytearray | None:
        num_bytes = int(head) if head.isdigit() else -1
        if not 0 <= num_bytes <= MAX_BLOB_BYTES:
            return None
        blob = bytearray()
        for number in range(_num_chunks(num_bytes)):
            chunk = self._link.call("GET", f"{key}:{number}")
            if chunk is None or len(chunk) != min(CHUNK_BYTES, num_bytes - len(blob)):
                return None
            blob += chunk
        return blob

    def _write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        blob = memoryview(b"".join(parts))
        for number in range(_num_chunks(len(blob))):
            chunk = blob[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            self._link.call("SET", f"{key}:{number}", chunk)
        self._link.call("SET", key, len(blob))

    def _touch(self, digest: str) -> None:
        with suppress(RedisFull):
            self._link.run_script(_TOUCH, _hex(digest))

    def _key(self, kind: BlobKind, digest: str) -> str:
        return f"{self._link.prefix}blob:{kind}:{_hex(digest)}"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _num_chunks(num_bytes: int) -> int:
    return -(-num_bytes // CHUNK_BYTES)
