from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from adapters_store.adapter import Fingerprint, Version
from adapters_store.errors import AdapterUnavailable, CatalogConflict
from adapters_store.store import AdapterStore
from adapters_store.tiers.redis_blobs import BlobKind, RedisBlobs
from tests.adapters_store.replicas import PREFIX, Replicas, is_up, knows, num_on_disk, put, wait_for_copy, wait_until
from tests.adapters_store.small_adapters import same_adapter, small_adapter


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


def test_after_a_partition_the_highest_record_wins_on_both_sides_tombstones_included(replicas: Replicas) -> None:
    first, second = replicas.open("first"), replicas.open("second")
    for name in ("moved", "deleted", "both"):
        put(first, name)
    wait_until(lambda: all(knows(second, name) for name in ("moved", "deleted", "both")), what="all names elsewhere")
    replicas.server.close()
    wait_until(lambda: not is_up(first) and not is_up(second), what="the links down")
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
    assert is_up(other)
    assert other.list_records("default") == []
