"""What N adapters of one mask cost on every tier, in measured bytes: N × values + one index set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, Adapter, IndexSet, build_adapter
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.blend import Blend, BlendMember
from adapters_store.format import encode_index_set, encode_values
from adapters_store.kernels import get_kernels
from adapters_store.store import AdapterStore
from adapters_store.tiers.manifest import manifest_of
from adapters_store.tiers.redis_settings import MIB
from adapters_store.tools.masks import MaskName, build_mask
from server.execution.staging import StagedBlends
from server.execution.weights import BaseWeights
from tests.adapters_store.replicas import Replicas
from tests.adapters_store.small_adapters import BASE, upload

NUM_ADAPTERS = 8
SPARSITY = 0.05
MAX_RECORD_BYTES = 1024  # of one name and one version in the catalog or Redis, beside the blobs


def tiny_base() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (300, 300), "b.weight": (64, 100)}  # two blocks and one
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def adapters_of(mask: MaskName) -> list[Adapter]:
    """As training makes them: each with a seed of its own and a mask built for it alone."""
    return [
        build_adapter(base=BASE, index_set=index_set, values=random_values(index_set, seed))
        for seed in range(NUM_ADAPTERS)
        for index_set in [build_mask(tiny_base().items(), mask, sparsity=SPARSITY, seed=seed)]
    ]


def random_values(index_set: IndexSet, seed: int) -> Tensor:
    return (torch.randn(index_set.num_entries, generator=torch.Generator().manual_seed(seed)) * 0.01).bfloat16()


def num_index_sets(mask: MaskName, num_adapters: int) -> int:
    """How many a store of these adapters should hold."""
    return 1 if mask == "wm" else num_adapters


both_masks = pytest.mark.parametrize("mask", ["wm", "rand"])


def test_wm_adapters_of_one_base_and_sparsity_have_one_index_set_and_rand_ones_of_other_seeds_do_not() -> None:
    assert len({adapter.index_set.digest for adapter in adapters_of("wm")}) == 1
    assert len({adapter.index_set.digest for adapter in adapters_of("rand")}) == NUM_ADAPTERS
    other_sparsity = build_mask(tiny_base().items(), "wm", sparsity=2 * SPARSITY)
    assert other_sparsity.digest != adapters_of("wm")[0].index_set.digest


@both_masks
def test_the_file_system_holds_n_values_and_one_index_set(replicas: Replicas, mask: MaskName) -> None:
    values, index_set, manifest = blob_sizes(adapters_of(mask)[0])
    records = []
    for num_adapters, _ in grow(replicas, mask):
        measured = file_bytes(replicas.root / "disk" / "adapters")
        assert measured == num_adapters * (values + manifest) + num_index_sets(mask, num_adapters) * index_set
        records.append(file_bytes(replicas.root / "disk") - measured)
    assert records[-1] - records[0] < (NUM_ADAPTERS - 1) * MAX_RECORD_BYTES


@both_masks
def test_redis_holds_n_values_and_one_index_set(replicas: Replicas, mask: MaskName) -> None:
    values, index_set, manifest = (size + len(str(size)) for size in blob_sizes(adapters_of(mask)[0]))  # with its head
    records = []
    for num_adapters, _ in grow(replicas, mask):
        measured = sum(replicas.redis.strlen(key) for key in replicas.keys("blob:*"))
        assert measured == num_adapters * (values + manifest) + num_index_sets(mask, num_adapters) * index_set
        others = set(replicas.keys("*")) - set(replicas.keys("blob:*"))
        records.append(sum(replicas.redis.memory_usage(key, samples=0) for key in others))
    assert records[-1] - records[0] < (NUM_ADAPTERS - 1) * MAX_RECORD_BYTES


@both_masks
def test_host_memory_holds_n_values_and_one_index_set(replicas: Replicas, mask: MaskName) -> None:
    held: list[Adapter] = []
    for num_adapters, store in grow(replicas, mask):
        held.append(store.acquire(adapters_of(mask)[num_adapters - 1].version))
        memory = {tensor.data_ptr(): tensor.nbytes for adapter in held for tensor in tensors(adapter)}
        expected = num_adapters * held[0].num_bytes + num_index_sets(mask, num_adapters) * held[0].index_set.num_bytes
        assert sum(memory.values()) == expected
        assert store.describe()["host"]["num_bytes"] == expected


@both_masks
def test_the_device_holds_n_times_the_words_and_one_support(replicas: Replicas, mask: MaskName) -> None:
    """A support is an index set and room for the words it displaces."""
    weights = tiny_base()
    blends: StagedBlends | None = None
    staged = []
    for num_adapters, store in grow(replicas, mask):
        blends = blends or StagedBlends(base_weights(weights), get_kernels("cpu"), store, budget_bytes=MIB)
        member = BlendMember(version=adapters_of(mask)[num_adapters - 1].version, scale=1.0)
        staged.append(blends.stage_and_hold(Blend(members=(member,))))
        supports = {id(blend.support): blend.support for blend in staged}
        assert len(supports) == num_index_sets(mask, num_adapters)
        first = staged[0]
        expected = num_adapters * first.words.nbytes + len(supports) * first.support.num_bytes
        assert blends.describe()["num_bytes"] == expected
        buffers = [blend.words for blend in staged] + [support.displaced for support in supports.values()]
        buffers += [part for s in supports.values() for part in (s.index_set.offsets, s.index_set.indices)]
        assert sum({buffer.data_ptr(): buffer.nbytes for buffer in buffers}.values()) == expected


def test_a_replica_that_fetches_them_all_from_redis_writes_one_index_set(replicas: Replicas) -> None:
    *_, (_, store) = grow(replicas, "wm")
    other = replicas.open("other")
    held = [other.acquire(adapter.version) for adapter in adapters_of("wm")]
    assert len({adapter.index_set.indices.data_ptr() for adapter in held}) == 1
    assert other.describe()["disk"] == store.describe()["disk"]
    assert file_bytes(replicas.root / "other" / "adapters") == file_bytes(replicas.root / "disk" / "adapters")


def test_an_index_set_stays_until_the_last_adapter_of_its_mask_goes(replicas: Replicas) -> None:
    *_, (_, store) = grow(replicas, "wm")
    one = adapters_of("wm")[0]
    for number in range(NUM_ADAPTERS):
        assert store.describe()["disk"]["num_index_sets"] == 1
        assert len(replicas.keys("blob:index_set:*")) == 2  # head and one chunk
        for version in store.delete("default", f"adapter-{number}"):
            assert store.destroy(version, timeout_s=1.0)
    assert file_bytes(replicas.root / "disk" / "adapters") == 0
    assert replicas.keys("blob:*") == []
    store.put(upload(one), tenant="default", name="again")  # whose index set is new once more
    assert store.describe()["disk"]["num_index_sets"] == 1


def grow(replicas: Replicas, mask: MaskName) -> Iterator[tuple[int, AdapterStore]]:
    """One store with a disk and a Redis server, after each upload."""
    store = replicas.open("disk")
    for number, adapter in enumerate(adapters_of(mask)):
        store.put(upload(adapter), tenant="default", name=f"adapter-{number}")
        yield number + 1, store


def blob_sizes(adapter: Adapter) -> tuple[int, int, int]:
    """Bytes of values, index set and manifest as they are written."""
    values, index_set = encode_values(adapter.values), encode_index_set(adapter.index_set)
    return len(b"".join(values)), len(b"".join(index_set)), len(manifest_of(adapter).text)


def file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tensors(adapter: Adapter) -> tuple[Tensor, ...]:
    return adapter.values, adapter.index_set.offsets, adapter.index_set.indices


def base_weights(weights: dict[str, Tensor]) -> BaseWeights:
    described = {
        name: BaseWeight(name=name, shape=tuple(weight.shape), dtype=DTYPE_NAMES[weight.dtype])
        for name, weight in weights.items()
    }
    return BaseWeights(weights, BaseDescription(fingerprint=BASE, weights=described))
