from __future__ import annotations

import sys
from threading import Thread

import pytest

from adapters_store.adapter import Adapter
from adapters_store.errors import BudgetExceeded
from adapters_store.tiers.host import HostTier
from adapters_store.tiers.observer import SilentObserver, TierName
from tests.adapters_store.small_adapters import same_adapter, small_adapter

VALUES_BYTES = small_adapter().num_bytes
INDEX_SET_BYTES = small_adapter().index_set.num_bytes


class Told(SilentObserver):
    def __init__(self) -> None:
        self.num_evicted = 0
        self.holds: tuple[int, int, int] = (0, 0, 0)
        self.shared_bytes = 0

    def evicted(self, tier: TierName, num_entries: int) -> None:
        self.num_evicted += num_entries

    def held(self, tier: TierName, *, num_adapters: int, num_index_sets: int, num_bytes: int) -> None:
        self.holds = (num_adapters, num_index_sets, num_bytes)

    def index_set_bytes_shared(self, num_bytes: int) -> None:
        self.shared_bytes = num_bytes


def bring(host: HostTier, adapter: Adapter) -> None:
    host.release(host.insert(adapter))


def test_adapters_of_one_mask_hold_one_index_set_and_count_it_once() -> None:
    told = Told()
    host = HostTier(1 << 20, told)
    held = [host.insert(small_adapter(values=number)) for number in range(3)]
    assert len({id(adapter.index_set) for adapter in held}) == 1
    assert told.holds == (3, 1, 3 * VALUES_BYTES + INDEX_SET_BYTES)
    assert told.shared_bytes == 2 * INDEX_SET_BYTES
    for number, adapter in enumerate(held):
        assert same_adapter(adapter, small_adapter(values=number))


def test_the_least_recently_used_adapter_leaves_first_and_a_pinned_one_never() -> None:
    told = Told()
    host = HostTier(2 * VALUES_BYTES + INDEX_SET_BYTES, told)
    a, b, c, d = (small_adapter(values=number) for number in range(4))
    bring(host, a)
    bring(host, b)
    bring(host, c)
    assert [host.is_resident(adapter.version) for adapter in (a, b, c)] == [False, True, True]
    assert told.num_evicted == 1
    host.set_pinned([b.version])
    bring(host, d)
    assert [host.is_resident(adapter.version) for adapter in (b, c, d)] == [True, False, True]
    host.set_pinned([d.version])
    bring(host, a)
    assert [host.is_resident(adapter.version) for adapter in (a, b, d)] == [True, False, True]


def test_a_pinned_adapter_stays_while_pins_change() -> None:
    """All pins came off before they went on again, and an insert in between evicted what was pinned."""
    host = HostTier(2 * VALUES_BYTES + INDEX_SET_BYTES, SilentObserver())
    pinned, *others = (small_adapter(values=number) for number in range(4))
    bring(host, pinned)
    host.set_pinned([pinned.version])

    def pin_again() -> None:
        for _ in range(3000):
            host.set_pinned([pinned.version])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        pinning = Thread(target=pin_again)
        pinning.start()
        while pinning.is_alive():
            for adapter in others:
                bring(host, adapter)
    finally:
        sys.setswitchinterval(interval)
        pinning.join()
    assert host.is_resident(pinned.version)


def test_an_adapter_whose_index_set_was_evicted_is_not_resident_and_takes_no_hold() -> None:
    host = HostTier(VALUES_BYTES + INDEX_SET_BYTES, Told())
    adapter, other = small_adapter(mask=0), small_adapter(mask=1, count=16)
    bring(host, adapter)
    bring(host, other)
    assert not host.is_resident(adapter.version)
    assert host.acquire(adapter.version) is None
    assert host.describe()["held_bytes"] == 0


def test_an_insert_that_fails_holds_nothing() -> None:
    host = HostTier(INDEX_SET_BYTES, Told())
    with pytest.raises(BudgetExceeded):
        host.insert(small_adapter())
    assert host.describe()["held_bytes"] == 0


def test_a_dropped_adapter_leaves_at_its_last_release() -> None:
    told = Told()
    host = HostTier(1 << 20, told)
    held = host.insert(small_adapter())
    host.drop(held.version)
    assert host.is_resident(held.version)
    host.release(held)
    assert not host.is_resident(held.version)
    assert host.describe()["num_bytes"] == 0


def test_what_leaves_at_its_last_release_is_told() -> None:
    told = Told()
    host = HostTier(1 << 20, told)
    held = host.insert(small_adapter())
    host.drop(held.version)
    assert told.holds == (1, 1, VALUES_BYTES + INDEX_SET_BYTES)
    host.release(held)
    assert told.holds == (0, 0, 0)
