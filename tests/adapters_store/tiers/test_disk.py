from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from adapters_store.adapter import build_adapter, build_index_set, build_table
from adapters_store.errors import BlobCorrupt, StorageFull
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier
from tests.adapters_store.small_adapters import BASE, same_adapter, small_adapter


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    data_dir = DataDir(tmp_path)
    yield data_dir
    data_dir.close()


def values_file(data_dir: DataDir) -> Path:
    (path,) = (data_dir.adapters / "values").iterdir()
    return path


def change_last_byte(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_bytes_are_verified_once_in_a_process_and_again_when_the_file_changed(data_dir: DataDir) -> None:
    adapter = small_adapter()
    disk = DiskTier(data_dir)
    disk.write(adapter)
    path = values_file(data_dir)
    before = path.stat()
    change_last_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the lie that a stamp cannot tell
    assert disk.load_values(adapter.values_digest) is not None
    os.utime(path)
    with pytest.raises(BlobCorrupt):
        disk.load_values(adapter.values_digest)
    with pytest.raises(BlobCorrupt):
        DiskTier(data_dir).load_values(adapter.values_digest)


def test_writing_through_a_loaded_tensor_does_not_change_the_file(data_dir: DataDir) -> None:
    adapter = small_adapter()
    disk = DiskTier(data_dir)
    disk.write(adapter)
    values = disk.load_values(adapter.values_digest)
    assert values is not None
    values.zero_()
    fresh = disk.load_values(adapter.values_digest)
    assert fresh is not None
    assert torch.equal(fresh, adapter.values)


def test_a_removed_version_stays_usable_by_who_loaded_it(data_dir: DataDir) -> None:
    adapter = small_adapter()
    disk = DiskTier(data_dir)
    manifest = disk.write(adapter)
    index_set, values = disk.load_index_set(manifest.index_set), disk.load_values(manifest.values)
    disk.remove(adapter.version)
    assert index_set is not None
    assert values is not None
    assert same_adapter(manifest.assemble(index_set, values), adapter)
    assert disk.load_values(manifest.values) is None


def test_a_damaged_manifest_is_not_listed(data_dir: DataDir) -> None:
    DiskTier(data_dir).write(small_adapter())
    (path,) = (data_dir.adapters / "manifests").iterdir()
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert DiskTier(data_dir).manifests() == []


def test_an_adapter_of_a_billion_parameter_model_verified_before_loads_in_milliseconds(data_dir: DataDir) -> None:
    shapes = [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192)]
    names = sorted(f"model.layers.{layer}.m{number}.weight" for layer in range(16) for number in range(len(shapes)))
    rows = [(name, shapes[int(name.split(".m")[1][0])]) for name in names]
    rest = [shape[0] * shape[1] // 100 for _, shape in rows]
    table = build_table([(name, shape, "bfloat16", count) for (name, shape), count in zip(rows, rest, strict=True)])
    offsets = [0]
    for entry in table:
        per_block = entry.count // entry.num_blocks
        counts = [per_block] * entry.num_blocks
        counts[0] += entry.count - sum(counts)
        for count in counts:
            offsets.append(offsets[-1] + count)
    indices = torch.cat([torch.arange(b - a) for a, b in pairwise(offsets)]).to(torch.uint16)
    index_set = build_index_set(table, torch.tensor(offsets), indices)
    values = torch.ones(offsets[-1], dtype=torch.bfloat16)
    adapter = build_adapter(base=BASE, index_set=index_set, values=values)
    assert values.numel() > 9_000_000
    disk = DiskTier(data_dir)
    manifest = disk.write(adapter)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        loaded = disk.load_index_set(manifest.index_set), disk.load_values(manifest.values)
        seconds.append(time.perf_counter() - started)
        assert None not in loaded
    assert min(seconds) < 5e-3, f"{min(seconds) * 1e3:.1f} ms"


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The kernel refuses this process longer files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [64, 9000])  # refuses the index set; the values behind it
def test_a_disk_that_refuses_a_write_leaves_nothing_behind(data_dir: DataDir, num_bytes: int) -> None:
    adapter = small_adapter(count=2000)
    disk = DiskTier(data_dir)
    with largest_file(num_bytes), pytest.raises(StorageFull, match="the disk refused to write"):
        disk.write(adapter)
    assert {path.name for path in data_dir.root.rglob("*") if path.is_file()} == {"lock", "replica"}
    assert disk.manifests() == []
    disk.write(adapter)
    assert disk.load_values(adapter.values_digest) is not None
