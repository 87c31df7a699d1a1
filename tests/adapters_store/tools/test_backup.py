"""What the check finds, and that a copy made of a store in use holds together."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from adapters_store.tools.backup import back_up
from adapters_store.tools.store_check import check_store
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload


def open_store(root: Path) -> AdapterStore:
    store = AdapterStore(StoreConfig(data_dir=root, host_budget_bytes=1 << 20, redis=RedisSettings(mode="off")))
    store.start()
    return store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(root: Path) -> Iterator[AdapterStore]:
    """Holds ``kept`` with two versions and ``deleted`` as a tombstone; in use by this process."""
    store = open_store(root)
    for values in (1, 2):
        store.put(upload(small_adapter(values=values)), tenant="default", name="kept", tags=("a",))
    store.put(upload(small_adapter(mask=3)), tenant="other", name="deleted")
    for version in store.delete("other", "deleted"):
        store.destroy(version, timeout_s=10)
    yield store
    store.close()


@pytest.mark.usefixtures("store")
def test_a_sound_store_is_found_sound(root: Path) -> None:
    found = check_store(root)
    assert found.is_sound
    assert (found.num_aliases, found.num_versions, found.unnamed) == (1, 2, ())
    assert found.num_bytes > 2 * 128 * 4


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("folder", ["index_sets", "values", "manifests"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_harm_to_any_file_is_found_and_the_name_told(root: Path, folder: str, harm: str) -> None:
    path = next((root / "adapters" / folder).iterdir())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    if harm != "remove":
        path.write_bytes(content if harm == "flip" else content[:-1])
    found = check_store(root)
    assert found.problems
    assert all(problem.startswith("default/kept, version sha256:") for problem in found.problems)


@pytest.mark.usefixtures("store")
def test_a_harmed_record_and_a_file_of_no_version_are_found(root: Path) -> None:
    (root / "adapters" / "values" / "0.safetensors").write_bytes(b"left over")
    assert check_store(root).unnamed == (root / "adapters" / "values" / "0.safetensors",)
    (root / "catalog" / "default" / "kept.json").write_text("{}")
    assert "default/kept.json: not an alias record" in check_store(root).problems[0]


def test_a_copy_serves_what_the_store_held(store: AdapterStore, root: Path, tmp_path: Path) -> None:
    made = back_up(root, tmp_path / "copy")
    assert made.check.is_sound
    assert made.num_copied == 1 + 2 + 2  # a shared index set, values and manifests
    assert not (tmp_path / "copy" / "replica").exists(), "a server on the copy is another replica"
    copy = open_store(tmp_path / "copy")
    try:
        assert copy.get_record("default", "kept") == store.get_record("default", "kept")
        for values in (1, 2):
            assert same_adapter(copy.export(small_adapter(values=values).version), small_adapter(values=values))
    finally:
        copy.close()


def test_a_second_backup_writes_what_is_new_and_drops_what_is_gone(
    store: AdapterStore, root: Path, tmp_path: Path
) -> None:
    back_up(root, tmp_path / "copy")
    store.put(upload(small_adapter(mask=7)), tenant="default", name="new")
    for version in store.delete("default", "kept"):
        store.destroy(version, timeout_s=10)
    made = back_up(root, tmp_path / "copy")
    assert made.num_copied == 3
    assert (made.check.num_aliases, made.check.num_versions, made.check.unnamed) == (1, 1, ())


def test_a_name_whose_bytes_are_gone_is_told_and_the_others_are_copied(
    store: AdapterStore, root: Path, tmp_path: Path
) -> None:
    store.put(upload(small_adapter(mask=7)), tenant="default", name="a-sound-one")
    store.put(upload(small_adapter(mask=8)), tenant="default", name="z-sound-one")
    manifest = (root / "adapters" / "manifests" / small_adapter(values=1).version.removeprefix("sha256:")).with_suffix(
        ".json"
    )
    manifest.unlink()
    made = back_up(root, tmp_path / "copy")
    [problem] = made.problems
    assert problem.startswith("default/kept was not copied: ")
    assert made.check.is_sound
    assert made.check.num_aliases == 2


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("folder", ["index_sets", "values", "manifests"])
def test_harm_to_the_copy_is_mended_by_the_next_backup(root: Path, tmp_path: Path, folder: str) -> None:
    back_up(root, tmp_path / "copy")
    path = next((tmp_path / "copy" / "adapters" / folder).iterdir())
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    path.write_bytes(content)
    assert not check_store(tmp_path / "copy").is_sound
    made = back_up(root, tmp_path / "copy")
    assert made.num_copied == 1
    assert made.check.is_sound


@pytest.mark.usefixtures("store")
def test_a_file_that_is_damaged_is_no_file_that_nobody_needs(root: Path) -> None:
    path = next((root / "adapters" / "values").iterdir())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert not check_store(root).is_sound
    assert check_store(root).unnamed == ()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("harmed", ["catalog/default/*.json", "adapters/manifests/*.json"])
def test_while_what_tells_which_files_are_needed_cannot_be_read_the_copy_loses_none(
    root: Path, tmp_path: Path, harmed: str
) -> None:
    """Damage to one name in both places cost the copy the bytes, which were sound."""
    copy = tmp_path / "copy"
    back_up(root, copy)
    files = {path: path.read_bytes() for path in (copy / "adapters").glob("[iv]*/*")}
    for path in (next(root.glob(harmed)), next(copy.glob(harmed))):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-5])
    (copy / "adapters" / "values" / "0.safetensors").write_bytes(b"left over")
    made = back_up(root, copy)
    assert made.problems
    assert (made.check.is_sound, made.check.unnamed) == (False, ())
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.usefixtures("store")
def test_nothing_is_written_over_what_is_no_copy_of_this_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="neither empty nor a copy"):
        back_up(root, tmp_path / "folder")
    other = open_store(tmp_path / "other")
    other.put(upload(small_adapter(mask=9)), tenant="default", name="another")
    other.close()
    for target in (tmp_path / "other", root):
        with pytest.raises(ValueError, match="the data directory of a server"):
            back_up(root, target)
    back_up(tmp_path / "other", tmp_path / "other-copy")
    with pytest.raises(ValueError, match="has never had another"):
        back_up(root, tmp_path / "other-copy")
    assert check_store(tmp_path / "other-copy").num_aliases == 1


@pytest.mark.usefixtures("store")
def test_a_volume_that_is_not_there_does_not_empty_the_copy(root: Path, tmp_path: Path) -> None:
    back_up(root, tmp_path / "copy")
    (tmp_path / "unmounted").mkdir()
    with pytest.raises(ValueError, match="is no data directory"):
        back_up(tmp_path / "unmounted", tmp_path / "copy")
    (tmp_path / "unmounted" / "catalog").mkdir()
    with pytest.raises(ValueError, match="has never had"):
        back_up(tmp_path / "unmounted", tmp_path / "copy")
    assert check_store(tmp_path / "copy").num_aliases == 1


@pytest.mark.slow
def test_a_copy_of_a_store_that_changes_all_the_time_is_sound(root: Path, tmp_path: Path) -> None:
    store = open_store(root)
    stop = threading.Event()

    def change() -> None:
        rng = random.Random(0)
        while not stop.is_set():
            name = f"a{rng.randrange(4)}"
            store.put(upload(small_adapter(values=rng.randrange(1000))), tenant="default", name=name)
            if rng.random() < 0.5:
                for version in store.delete("default", name):
                    store.destroy(version, timeout_s=10)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(20):
            made = back_up(root, tmp_path / "copy")
            assert made.problems == ()
            assert made.check.is_sound
            assert check_store(root).is_sound, "while it changes"
    finally:
        stop.set()
        changing.join()
        store.close()
    final = back_up(root, tmp_path / "copy").check
    assert final.is_sound
    assert final.num_versions == check_store(root).num_versions
