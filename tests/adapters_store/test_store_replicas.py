from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from adapters_store import replication
from adapters_store.adapter import Fingerprint, Version
from adapters_store.alias import AliasRecord
from adapters_store.catalog import Catalog
from adapters_store.errors import AdapterNotFound, AdapterUnavailable, CatalogConflict, StorageFull
from adapters_store.store import AdapterStore
from adapters_store.tiers.observer import SilentObserver
from adapters_store.tiers.redis_blobs import BlobKind, RedisBlobs
from tests.adapters_store.replicas import PREFIX, Replicas, wait_until
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    with Replicas(tmp_path) as replicas:
        yield replicas


def put(store: AdapterStore, name: str = "pirate", *, mask: int = 0, values: int = 0) -> None:
    store.put(upload(small_adapter(mask=mask, values=values)), tenant="default", name=name)


def knows(store: AdapterStore, name: str) -> bool:
    try:
        store.get_record("default", name)
    except AdapterNotFound:
        return False
    return True


def num_on_disk(store: AdapterStore) -> int:
    return int(store.describe()["disk"]["num_adapters"])


def wait_for_copy(store: AdapterStore, num_adapters: int = 1) -> None:
    wait_until(lambda: num_on_disk(store) == num_adapters, what=f"{num_adapters} adapters on the disk")


def test_what_one_replica_got_the_other_serves_byte_for_byte_without_the_first_ones_disk(
    replicas: Replicas, tmp_path: Path
) -> None:
    first = replicas.open("first")
    put(first)
    first.close()
    shutil.rmtree(tmp_path / "first")
    second = replicas.open("second")
    held = second.acquire(second.resolve("default", "pirate"))
    assert same_adapter(held, small_adapter())
    second.release(held)


def test_uploads_moves_and_deletes_reach_the_other_replica_with_their_bytes(replicas: Replicas) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    gone: list[Version] = []
    second.subscribe(gone.append)
    put(first, values=0)
    wait_for_copy(second, 1)
    put(first, values=1)
    wait_for_copy(second, 2)
    assert second.get_record("default", "pirate") == first.get_record("default", "pirate")
    second.move("default", "pirate", version=small_adapter(values=0).version)
    wait_until(
        lambda: first.resolve("default", "pirate") == small_adapter(values=0).version, what="the rollback elsewhere"
    )
    for version in first.delete("default", "pirate"):
        assert first.destroy(version, timeout_s=1)
    wait_until(lambda: not knows(second, "pirate"), what="the delete elsewhere")
    wait_for_copy(second, 0)
    assert set(gone) == {small_adapter(values=0).version, small_adapter(values=1).version}
    wait_until(lambda: replicas.keys("blob:*") == [], what="the bytes gone from Redis")


def test_what_is_deleted_while_it_is_fetched_does_not_stay(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    version = small_adapter(mask=1).version
    fetch = RedisBlobs.fetch

    def fetch_overtaken(blobs: RedisBlobs, kind: BlobKind, digest: str) -> bytearray | None:
        if digest == version and threading.current_thread().name == "shira-replication" and knows(second, "gone"):
            assert second.delete("default", "gone") == [version]
            assert second.destroy(version, timeout_s=0)
        return fetch(blobs, kind, digest)

    monkeypatch.setattr(RedisBlobs, "fetch", fetch_overtaken)
    monkeypatch.setattr(RedisBlobs, "discard", lambda *_: None)  # the bytes are still on their way
    put(first, "gone", mask=1)
    wait_until(lambda: not knows(first, "gone"), what="the delete at the first replica")
    put(first, "kept", mask=2)
    wait_until(lambda: knows(second, "kept"), what="the next name, which is read after that fetch")
    second.release(second.acquire(small_adapter(mask=2).version))
    assert num_on_disk(second) == 1


def test_a_delete_waits_at_the_other_replica_for_its_holders(replicas: Replicas) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    put(first)
    wait_for_copy(second)
    held = second.acquire(small_adapter().version)
    for version in first.delete("default", "pirate"):
        first.destroy(version, timeout_s=1)
    wait_until(lambda: not knows(second, "pirate"), what="the delete elsewhere")
    assert same_adapter(held, small_adapter())
    assert num_on_disk(second) == 1
    second.release(held)
    wait_for_copy(second, 0)


def test_of_changes_by_two_replicas_based_on_one_record_exactly_one_wins(replicas: Replicas) -> None:
    stores = [replicas.open("first"), replicas.open("second")]
    put(stores[0])
    wait_for_copy(stores[1])
    for number in range(8):
        etag = stores[0].get_record("default", "pirate").etag
        wait_until(
            lambda etag=etag: stores[1].get_record("default", "pirate").etag == etag,  # type: ignore[misc]
            what="both on one record",
        )
        barrier = Barrier(2)

        def change(store: AdapterStore, etag: str = etag, barrier: Barrier = barrier, number: int = number) -> bool:
            barrier.wait(10)
            try:
                store.move("default", "pirate", description=str(number), if_match=etag)
            except CatalogConflict:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(change, stores)) == [False, True]


def test_unconditional_changes_by_two_replicas_all_land_in_one_history(replicas: Replicas) -> None:
    stores = [replicas.open("first"), replicas.open("second")]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: put(stores[number % 2], values=number), range(8)))
    wait_until(
        lambda: stores[0].get_record("default", "pirate") == stores[1].get_record("default", "pirate"),
        what="both on one record",
    )
    record = stores[0].get_record("default", "pirate")
    assert record.versions == {small_adapter(values=number).version for number in range(8)}
    assert record.revision == 8


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

    def refuse_once(catalog: Catalog, record: AliasRecord) -> bool:
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

    def refuse_twice(catalog: Catalog, record: AliasRecord) -> bool:
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


def test_after_a_partition_the_highest_record_wins_on_both_sides_tombstones_included(replicas: Replicas) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    for name in ("moved", "deleted", "both"):
        put(first, name)
    wait_until(lambda: all(knows(second, name) for name in ("moved", "deleted", "both")), what="all names elsewhere")
    replicas.server.close()
    wait_until(lambda: not first.redis_up and not second.redis_up, what="the links down")
    put(first, "moved", values=1)
    second.delete("default", "deleted")
    put(first, "both", values=2)
    put(second, "both", values=3)
    put(second, "both", values=4)
    put(second, "fresh", values=5)
    replicas.server.ensure_running()
    wait_until(lambda: knows(first, "fresh") and not knows(first, "deleted"), what="the first reconciled")
    wait_until(lambda: second.resolve("default", "moved") == small_adapter(values=1).version, what="the second too")
    for name in ("moved", "both", "fresh"):
        wait_until(
            lambda name=name: first.get_record("default", name) == second.get_record("default", name),  # type: ignore[misc]
            what=f"one record of {name}",
        )
    assert first.resolve("default", "both") == small_adapter(values=4).version
    assert not knows(second, "deleted")
    for store in (first, second):
        for number in (1, 4, 5):
            assert same_adapter(store.export(small_adapter(values=number).version), small_adapter(values=number))


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
    wait_until(lambda: store.redis_up, what="the link up")
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
    assert not store.redis_up
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: store.redis_up, what="the link up")
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
    wait_until(lambda: not store.redis_up, what="the link down")
    replicas.server.ensure_running()
    wait_until(lambda: store.redis_up, what="the link up")
    store.close()
    assert told == [False, True, False, True, False]


def test_values_stay_within_their_budget_and_what_was_evicted_is_brought_by_who_has_it(replicas: Replicas) -> None:
    one = small_adapter()
    budget = 2 * (one.num_bytes + 256)
    first = replicas.open("first", values_budget_bytes=budget)
    second = replicas.open("second", values_budget_bytes=budget)
    for number in range(5):
        put(first, f"a{number}", values=number)
        wait_for_copy(second, number + 1)
    wait_until(lambda: replicas.redis.scard(f"{PREFIX}values:pinned") == 0, what="nothing pinned")
    assert len(replicas.keys("blob:values:*:0")) == 2
    second.close()
    third = replicas.open("third", values_budget_bytes=budget)
    for number in range(5):
        held = third.acquire(small_adapter(values=number).version)
        assert same_adapter(held, small_adapter(values=number))
        third.release(held)
    sizes = [int(size) for size in replicas.redis.hvals(f"{PREFIX}values:sizes")]
    assert sum(sizes) <= budget


def test_an_upload_that_no_other_disk_has_is_not_evicted_for_a_later_one(replicas: Replicas) -> None:
    one = small_adapter()
    first = replicas.open("first", values_budget_bytes=2 * (one.num_bytes + 256))
    for number in range(4):
        put(first, f"a{number}", values=number)
    assert replicas.redis.scard(f"{PREFIX}values:pinned") == 2
    first.close()
    second = replicas.open("second")
    for number in (0, 1):
        assert same_adapter(second.export(small_adapter(values=number).version), small_adapter(values=number))
    wait_until(lambda: replicas.redis.scard(f"{PREFIX}values:pinned") == 0, what="nothing pinned")
    with pytest.raises(AdapterUnavailable, match="on no disk or Redis that can be reached"):
        second.acquire(small_adapter(values=2).version)


def test_an_index_set_shared_by_many_adapters_is_in_redis_once(replicas: Replicas) -> None:
    store = replicas.open("first")
    for number in range(3):
        put(store, f"a{number}", values=number)
    assert len(replicas.keys("blob:index_set:*:0")) == 1
    assert len(replicas.keys("blob:values:*:0")) == 3


def test_replicas_of_different_bases_do_not_see_each_other(replicas: Replicas) -> None:
    put(replicas.open("first"))
    other = replicas.open("second", base=Fingerprint("sha256:" + "cd" * 32))
    assert other.redis_up
    assert other.list_records("default") == []
