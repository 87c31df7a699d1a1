from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event

import pytest

from adapters_store.adapter import Adapter, Version
from adapters_store.blend import STEPWISE_METHODS, Blend, BlendMember, Fusion, StepwiseMethod
from adapters_store.errors import AdapterUnavailable, BudgetExceeded, NeverFits
from adapters_store.format import ParsedUpload
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from server.core.steps import LoadReport
from server.execution.residency import StoreResidency
from tests.server.execution.world import Shelf, make_adapter


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def make_blend(shelf: Shelf, *seeds: int) -> Blend:
    versions = [shelf.add(make_adapter(seed)).version for seed in seeds]
    return Blend(members=tuple(BlendMember(version=version, scale=1.0) for version in versions))


def test_bytes_are_held_from_the_load_to_the_release(pool: ThreadPoolExecutor) -> None:
    shelf, answers = Shelf(), Queue[LoadReport]()
    residency = StoreResidency(shelf, pool)
    blend = make_blend(shelf, 1, 2)
    residency.request(blend, answers.put)
    assert answers.get(timeout=10).error is None
    assert set(shelf.held.values()) == {1}
    residency.release(blend)
    pool.shutdown(wait=True)
    assert set(shelf.held.values()) == {0}


def test_a_load_that_fails_holds_nothing_and_says_why(pool: ThreadPoolExecutor) -> None:
    shelf, answers = Shelf(), Queue[LoadReport]()
    residency = StoreResidency(shelf, pool)
    blend = make_blend(shelf, 1, 2)
    del shelf.adapters[blend.versions[1]]
    residency.request(blend, answers.put)
    assert isinstance(answers.get(timeout=10).error, AdapterUnavailable)
    residency.release(blend)
    pool.shutdown(wait=True)
    assert set(shelf.held.values()) == {0}


def test_a_blend_that_needs_more_than_the_whole_budget_is_refused_while_others_hold_theirs(
    pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Found by ``make chaos``: it waited for others to let go, for as long as its deadline, and in vain."""
    adapters = [make_adapter(seed) for seed in (1, 2, 3)]
    sizes = [adapter.num_bytes + adapter.index_set.num_bytes for adapter in adapters]
    config = StoreConfig(data_dir=tmp_path, host_budget_bytes=sum(sizes[:2]) - 1, redis=RedisSettings(mode="off"))
    store, answers = AdapterStore(config), Queue[LoadReport]()
    residency = StoreResidency(store, pool)
    for number, adapter in enumerate(adapters):
        parsed = ParsedUpload(adapter=adapter, card=None, base_verified=True)
        store.put(parsed, tenant="default", name=f"a{number}")

    def asked_for(*wanted: Adapter) -> Exception | None:
        members = tuple(BlendMember(version=adapter.version, scale=1.0) for adapter in wanted)
        residency.request(Blend(members=members), answers.put)
        return answers.get(timeout=10).error

    assert asked_for(adapters[2]) is None
    assert isinstance(asked_for(adapters[0]), BudgetExceeded)  # fits once the third is let go
    assert isinstance(asked_for(adapters[0], adapters[1]), NeverFits)
    store.close()


class SlowShelf(Shelf):
    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = Event()

    def acquire(self, version: Version) -> Adapter:
        assert self.may_go_on.wait(10)
        if version not in self.adapters:
            raise OSError("the disk is gone")
        return super().acquire(version)


def test_a_release_during_the_load_lets_go_when_it_ends(pool: ThreadPoolExecutor) -> None:
    shelf, answers = SlowShelf(), Queue[LoadReport]()
    residency = StoreResidency(shelf, pool)
    blend = make_blend(shelf, 1)
    residency.request(blend, answers.put)
    residency.release(blend)
    shelf.may_go_on.set()
    assert answers.get(timeout=10).error is None
    pool.shutdown(wait=True)
    assert set(shelf.held.values()) == {0}
    assert [kept for kept in vars(residency).values() if isinstance(kept, dict)] == [{}]


def test_an_error_nobody_expected_becomes_unavailable(pool: ThreadPoolExecutor) -> None:
    shelf, answers = SlowShelf(), Queue[LoadReport]()
    shelf.may_go_on.set()
    residency = StoreResidency(shelf, pool)
    blend = make_blend(shelf, 1)
    shelf.adapters.clear()
    residency.request(blend, answers.put)
    error = answers.get(timeout=10).error
    assert isinstance(error, AdapterUnavailable)
    assert "disk is gone" in str(error)


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_every_member_of_a_blend_that_takes_turns_is_brought(pool: ThreadPoolExecutor, method: StepwiseMethod) -> None:
    shelf, answers = Shelf(), Queue[LoadReport]()
    residency = StoreResidency(shelf, pool)
    blend = Blend(members=make_blend(shelf, 2, 1, 3).members, fusion=Fusion(method=method))
    residency.request(blend, answers.put)
    assert answers.get(timeout=10).error is None
    assert shelf.held == dict.fromkeys(shelf.adapters, 1)
    residency.release(blend)
    pool.shutdown(wait=True)
    assert set(shelf.held.values()) == {0}
