"""What Redis or a disk damages, refuses or loses, the store makes up for."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters_store import replication
from adapters_store.alias import AliasRecord
from adapters_store.catalog import Catalog, Replaced
from adapters_store.errors import AdapterUnavailable, StorageFull
from adapters_store.tiers.observer import SilentObserver
from tests.adapters_store.replicas import PREFIX, Replicas, is_up, knows, put, wait_for_copy, wait_until
from tests.adapters_store.small_adapters import same_adapter, small_adapter


def test_a_corrupted_blob_in_redis_is_a_miss_and_is_removed(replicas: Replicas, tmp_path: Path) -> None:
    first = replicas.open("first")
    put(first)
    first.close()
    (chunk,) = replicas.keys("blob:values:*:0")
    data = bytearray(replicas.redis.get(chunk))
    data[-1] ^= 1
    replicas.redis.set(chunk, bytes(data))
    second = replicas.open("second")
    with pytest.raises(AdapterUnavailable):
        second.acquire(small_adapter().version)
    assert replicas.keys("blob:values:*") == []
    replicas.open("first")
    held = second.acquire(small_adapter().version)
    assert same_adapter(held, small_adapter())
    second.release(held)


@pytest.mark.parametrize("kind", ["manifest", "index_set", "values"])
def test_a_blob_that_redis_has_in_part_is_offered_again_whole(replicas: Replicas, kind: str) -> None:
    """An eviction of Redis's own takes one key: as long as the length was there, nobody wrote the rest again."""
    first = replicas.open("first")
    put(first)
    (chunk,) = replicas.keys(f"blob:{kind}:*:0")
    replicas.redis.delete(chunk)
    second = replicas.open("second")
    held = second.acquire(small_adapter().version)
    assert same_adapter(held, small_adapter())
    second.release(held)


def damage(folder: Path) -> None:
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["values", "index_sets"])
def test_a_damaged_file_is_replaced_from_redis(replicas: Replicas, tmp_path: Path, kind: str) -> None:
    store = replicas.open("first")
    put(store)
    damage(tmp_path / "first" / "adapters" / kind)
    held = store.acquire(small_adapter().version)
    assert same_adapter(held, small_adapter())
    store.release(held)


def test_a_damaged_index_set_keeps_nothing_else_from_an_emptied_redis(replicas: Replicas, tmp_path: Path) -> None:
    store = replicas.open("first")
    put(store, "damaged", mask=1)
    damage(tmp_path / "first" / "adapters" / "index_sets")
    for mask in range(2, 8):
        put(store, f"sound-{mask}", mask=mask)
    replicas.redis.flushall()
    wait_until(lambda: len(replicas.keys("blob:index_set:*:0")) == 6, what="the sound index sets in Redis")


def test_a_record_that_the_disk_refused_is_taken_later(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was missing until the next time that the link came up."""
    refusals = [StorageFull("no room")]
    adopt = Catalog.adopt

    def refuse_once(catalog: Catalog, record: AliasRecord) -> Replaced | None:
        if refusals and threading.current_thread().name == "shira-replication":
            raise refusals.pop()
        return adopt(catalog, record)

    monkeypatch.setattr(Catalog, "adopt", refuse_once)
    monkeypatch.setattr(replication, "RETRY_AFTER_S", 0.1)
    first, second = replicas.open("first"), replicas.open("second")
    put(first)
    wait_until(lambda: knows(second, "pirate"), what="the record at the second replica")
    assert not refusals


def test_a_change_that_this_disk_refused_is_taken_back_from_the_others(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias pointed there at bytes that were removed with the failed upload."""
    first = replicas.open("first")
    put(first, "old", values=1)
    refusals = [StorageFull("no room"), StorageFull("no room")]
    adopt = Catalog.adopt

    def refuse_twice(catalog: Catalog, record: AliasRecord) -> Replaced | None:
        if refusals:
            raise refusals.pop()
        return adopt(catalog, record)

    monkeypatch.setattr(Catalog, "adopt", refuse_twice)
    for name in ("old", "new"):
        with pytest.raises(StorageFull):
            put(first, name, values=2)
    second = replicas.open("second")
    assert second.resolve("default", "old") == small_adapter(values=1).version
    assert not knows(second, "new")
    put(first, "old", values=3)
    assert len(first.get_record("default", "old").history) == 2


@pytest.mark.parametrize("trouble", ["stopped", "killed", "emptied", "full"])
def test_the_store_works_through_any_trouble_of_redis_and_the_link_heals(replicas: Replicas, trouble: str) -> None:
    store = replicas.open("first")
    put(store, "before", values=0)
    pid = replicas.server_pid()
    match trouble:
        case "stopped":
            os.kill(pid, signal.SIGSTOP)
        case "killed":
            os.kill(pid, signal.SIGKILL)
        case "emptied":
            replicas.redis.flushall()
        case "full":
            replicas.redis.config_set("maxmemory", "1mb")
    put(store, "during", values=1)
    for number in (0, 1):
        held = store.acquire(small_adapter(values=number).version)
        assert same_adapter(held, small_adapter(values=number))
        store.release(held)
    store.move("default", "before", description="moved")
    match trouble:
        case "stopped":
            os.kill(pid, signal.SIGCONT)
        case "killed":
            replicas.restart_killed_server()
        case "full":
            replicas.redis.config_set("maxmemory", "64mb")
    wait_until(lambda: is_up(store), what="the link up")
    second = replicas.open("second")
    wait_until(lambda: knows(second, "before") and knows(second, "during"), what="names at a new replica")
    wait_until(lambda: second.get_record("default", "before").description == "moved", what="the move")
    for number in (0, 1):
        held = second.acquire(small_adapter(values=number).version)
        assert same_adapter(held, small_adapter(values=number))
        second.release(held)


def test_an_emptied_redis_is_filled_again_without_any_change(replicas: Replicas) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    put(first)
    wait_for_copy(second)
    replicas.redis.flushall()
    wait_until(lambda: len(replicas.keys("blob:*:*:0")) == 3, what="manifest, index set and values offered anew")
    wait_until(lambda: bool(replicas.redis.hexists(f"{PREFIX}aliases", "default/pirate")), what="the name offered anew")
    holders = f"{PREFIX}values:holders:{small_adapter().values_digest.removeprefix('sha256:')}"
    wait_until(lambda: replicas.redis.scard(holders) == 2, what="both disks noted")


def test_a_redis_that_does_not_answer_costs_one_timeout_and_no_more(replicas: Replicas) -> None:
    store = replicas.open("first")
    pid = replicas.server_pid()
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    for number in range(10):
        put(store, f"a{number}", values=number)
    elapsed_s = time.monotonic() - started
    assert not is_up(store)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: is_up(store), what="the link up")
    started = time.monotonic()
    for number in range(10, 20):
        put(store, f"a{number}", values=number)
    assert elapsed_s < (time.monotonic() - started) + 2.0  # two calls of each put would have waited 0.2 s


def test_redis_up_is_told_at_every_turn(replicas: Replicas) -> None:
    told: list[bool] = []

    class Told(SilentObserver):
        def redis_up(self, is_up: bool) -> None:
            told.append(is_up)

    store = replicas.open("first", observer=Told())
    replicas.server.close()
    wait_until(lambda: not is_up(store), what="the link down")
    replicas.server.ensure_running()
    wait_until(lambda: is_up(store), what="the link up")
    store.close()
    assert told == [False, True, False, True, False]


@pytest.mark.parametrize(
    "change",
    [
        lambda held: b"9" * 5000 + held[1:],  # more digits than Python reads
        lambda held: re.sub(rb'"created_at":[0-9.]+', b'"created_at":1e+300', held),
    ],
    ids=["revision", "time"],
)
def test_a_record_that_no_replica_wrote_is_taken_by_none_and_keeps_no_other_name_from_it(
    replicas: Replicas, change: Callable[[bytes], bytes]
) -> None:
    """One of them was taken, and from then on every list of the adapters was an error."""
    first = replicas.open("first")
    put(first, "harmed", values=1)
    for number in range(4):
        put(first, f"sound-{number}", values=2)
    held = replicas.redis.hget(f"{PREFIX}aliases", "default/harmed")
    first.close()
    replicas.redis.hset(f"{PREFIX}aliases", "default/harmed", change(held))
    second = replicas.open("second")
    assert [record.name for record in second.list_records("default")] == [f"sound-{number}" for number in range(4)]
    put(second, "harmed", values=3)
    assert second.resolve("default", "harmed") == small_adapter(values=3).version
