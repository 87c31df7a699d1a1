from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from adapters_store import alias
from adapters_store.errors import (
    AdapterInUse,
    AdapterNotFound,
    AdapterUnavailable,
    BlobCorrupt,
    BudgetExceeded,
    CatalogConflict,
    DataDirLocked,
)
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload

OpenStore = Callable[..., AdapterStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the store of the test's data directory, again after the one before was closed."""
    stores: list[AdapterStore] = []

    def open_(host_budget_bytes: int = 1 << 20) -> AdapterStore:
        if stores:
            stores[-1].close()
        config = StoreConfig(
            data_dir=tmp_path / "data", host_budget_bytes=host_budget_bytes, redis=RedisSettings(mode="off")
        )
        stores.append(AdapterStore(config))
        stores[-1].start()
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


def put(
    store: AdapterStore, name: str = "pirate", *, if_match: str | None = None, mask: int = 0, values: int = 0
) -> str:
    adapter = small_adapter(mask=mask, values=values)
    store.put(upload(adapter), tenant="default", name=name, if_match=if_match)
    return adapter.version


def test_what_was_put_is_acquired_byte_for_byte_also_after_a_restart(open_store: OpenStore) -> None:
    adapter = small_adapter()
    result = open_store().put(upload(adapter), tenant="default", name="pirate", tags=("a",), description="d")
    assert result.created
    assert (result.record.tags, result.record.description, result.record.version) == (("a",), "d", adapter.version)
    store = open_store()
    assert store.get_record("default", "pirate") == result.record
    held = store.acquire(store.resolve("default", "pirate"))
    assert same_adapter(held, adapter)
    assert adapter.version in store.describe()["host"]["adapters"]
    store.release(held)
    assert same_adapter(store.export(adapter.version), adapter)


def test_the_same_bytes_again_change_no_version_and_a_new_version_moves_the_alias(open_store: OpenStore) -> None:
    store = open_store()
    adapter, other = small_adapter(values=0), small_adapter(values=1)
    store.put(upload(adapter), tenant="default", name="pirate")
    assert not store.put(upload(adapter), tenant="default", name="pirate").created
    moved = store.put(upload(other), tenant="default", name="pirate")
    assert moved.created
    assert [entry.version for entry in moved.record.history] == [adapter.version, other.version]
    assert store.resolve("default", "pirate") == other.version
    assert store.resolve("default", "pirate", adapter.version) == adapter.version
    back = store.move("default", "pirate", version=adapter.version, pinned=True)
    assert (back.version, back.pinned, back.revision) == (adapter.version, True, 4)


def test_a_change_based_on_an_older_record_is_refused(open_store: OpenStore) -> None:
    store = open_store()
    put(store)
    old = store.get_record("default", "pirate").etag
    put(store, values=1, if_match=old)
    with pytest.raises(CatalogConflict, match=f"expected {old}"):
        put(store, values=2, if_match=old)
    with pytest.raises(CatalogConflict):
        store.move("default", "pirate", description="x", if_match=old)
    with pytest.raises(CatalogConflict):
        store.delete("default", "pirate", if_match=old)
    with pytest.raises(CatalogConflict, match="at nothing"):
        put(store, "fresh", if_match="*")
    assert store.list_records("default") == [store.get_record("default", "pirate")]


def test_of_many_concurrent_changes_based_on_one_record_exactly_one_wins(open_store: OpenStore) -> None:
    store = open_store()
    put(store)
    etag = store.get_record("default", "pirate").etag
    barrier = Barrier(6)

    def change(number: int) -> bool:
        barrier.wait(10)
        try:
            store.move("default", "pirate", description=str(number), if_match=etag)
        except CatalogConflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(change, range(6))) == 1


def test_the_current_version_cannot_be_deleted_alone_and_an_older_one_can(open_store: OpenStore) -> None:
    store = open_store()
    old, new = put(store, values=0), put(store, values=1)
    with pytest.raises(CatalogConflict, match="point the alias at another one first"):
        store.delete("default", "pirate", version=small_adapter(values=1).version)
    assert store.delete("default", "pirate", version=small_adapter(values=0).version) == [old]
    with pytest.raises(AdapterNotFound, match=old):
        store.resolve("default", "pirate", small_adapter(values=0).version)
    assert store.delete("default", "pirate") == [new]
    with pytest.raises(AdapterNotFound, match="'pirate' does not exist"):
        store.delete("default", "pirate")


def test_a_version_that_a_full_history_forgets_frees_its_bytes_once_nobody_holds_it(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alias, "MAX_HISTORY", 2)
    store = open_store()
    gone: list[str] = []
    store.subscribe(gone.append)
    forgotten = [put(store, values=0), put(store, values=1)]
    held = store.acquire(small_adapter(values=0).version)
    put(store, values=2)
    assert store.describe()["disk"]["num_adapters"] == 3
    assert same_adapter(held, small_adapter(values=0))
    store.release(held)
    put(store, values=3)
    assert store.describe()["disk"]["num_adapters"] == 2
    assert store.describe()["host"]["num_bytes"] == 0
    assert gone == forgotten


def test_a_version_that_another_alias_refers_to_stays(open_store: OpenStore) -> None:
    store = open_store()
    version = small_adapter().version
    put(store, "one")
    put(store, "two")
    assert store.delete("default", "one") == []
    assert not store.destroy(version, timeout_s=1)
    store.release(store.acquire(version))


def test_destroy_frees_host_and_disk_but_not_an_index_set_that_another_adapter_uses(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store()
    put(store, "one", values=0)
    put(store, "two", values=1)
    one, two = small_adapter(values=0), small_adapter(values=1)
    for adapter in (one, two):
        store.release(store.acquire(adapter.version))
    assert store.describe()["host"]["num_index_sets"] == 1
    store.delete("default", "one")
    assert store.destroy(one.version, timeout_s=1)
    assert one.version not in store.describe()["host"]["adapters"]
    assert store.describe()["host"]["num_bytes"] == two.num_bytes + two.index_set.num_bytes
    with pytest.raises(AdapterUnavailable):
        store.acquire(one.version)
    assert same_adapter(store.export(two.version), two)
    store.delete("default", "two")
    assert store.destroy(two.version, timeout_s=1)
    assert [path for path in (tmp_path / "data" / "adapters").rglob("*") if path.is_file()] == []


def test_destroy_waits_for_holders_and_says_how_many_when_it_gives_up(open_store: OpenStore) -> None:
    store = open_store()
    version = small_adapter().version
    put(store)
    held = store.acquire(version)
    store.hold(version)
    store.delete("default", "pirate")
    with pytest.raises(AdapterInUse, match="still held by 2"):
        store.destroy(version, timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        destroyed = pool.submit(store.destroy, version, timeout_s=10)
        store.release(held)
        store.unhold(version)
        assert destroyed.result(10)
    assert store.describe()["host"]["num_bytes"] == 0


def test_concurrent_acquires_share_one_load(open_store: OpenStore) -> None:
    store = open_store()
    version = small_adapter().version
    put(store)
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: store.acquire(version), range(8)))
    assert len({adapter.values.data_ptr() for adapter in held}) == 1
    for adapter in held:
        store.release(adapter)
    assert store.describe()["claims"] == {}
    assert store.describe()["host"]["held_bytes"] == 0


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_stays_held(open_store: OpenStore) -> None:
    adapter = small_adapter()
    store = open_store(host_budget_bytes=adapter.num_bytes + adapter.index_set.num_bytes)
    put(store, "one", values=0)
    put(store, "two", values=1)
    put(store, "other", mask=1)
    held = store.acquire(adapter.version)
    with pytest.raises(BudgetExceeded):
        store.acquire(small_adapter(values=1).version)
    store.release(held)
    store.release(store.acquire(small_adapter(mask=1).version))
    assert adapter.version not in store.describe()["host"]["adapters"]
    assert store.describe()["claims"] == {}


def test_a_damaged_file_is_found_at_its_first_load_and_healed_by_a_new_upload(
    open_store: OpenStore, tmp_path: Path
) -> None:
    put(open_store())
    store = open_store()
    (path,) = (tmp_path / "data" / "adapters" / "values").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    version = small_adapter().version
    with pytest.raises(BlobCorrupt):
        store.acquire(version)
    put(store)
    held = store.acquire(version)
    assert same_adapter(held, small_adapter())
    store.release(held)


def test_a_second_owner_of_the_data_directory_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    open_store()
    config = StoreConfig(data_dir=tmp_path / "data", redis=RedisSettings(mode="off"))
    with pytest.raises(DataDirLocked, match="in use by process"):
        AdapterStore(config)


def test_a_data_directory_that_cannot_be_made_is_given_back(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmp").write_bytes(b"no folder")
    with pytest.raises(FileExistsError):
        open_store()
    (tmp_path / "data" / "tmp").unlink()
    put(open_store())


def test_start_removes_what_no_alias_refers_to(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    put(store, "kept", mask=0)
    put(store, "gone", mask=1)
    store.delete("default", "gone")
    (tmp_path / "data" / "tmp" / "leftover").write_bytes(b"half")
    (tmp_path / "data" / "adapters" / "values" / ("0" * 64 + ".safetensors")).write_bytes(b"orphan")
    store = open_store()
    assert store.describe()["disk"]["num_adapters"] == 1
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.parent.name != "catalog"]
    assert len([path for path in files if "adapters" in path.parts]) == 3
    assert not [path for path in files if path.parent.name == "tmp"]
    assert same_adapter(store.export(small_adapter(mask=0).version), small_adapter(mask=0))


def test_nothing_is_removed_while_a_record_cannot_be_read(open_store: OpenStore, tmp_path: Path) -> None:
    put(open_store())
    (tmp_path / "data" / "catalog" / "default" / "pirate.json").write_bytes(b"{}")
    assert open_store().describe()["disk"]["num_adapters"] == 1
