from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from adapters_store.errors import BudgetExceeded
from adapters_store.tiers.lru import ByteBudgetCache

BUDGET = 10


@dataclass
class ModelEntry:
    num_bytes: int
    references: int = 0
    pinned: bool = False
    leaving: bool = False

    @property
    def held(self) -> bool:
        return self.references > 0 or self.pinned


KEYS = st.integers(0, 5)


class CacheAgainstItsModel(RuleBasedStateMachine):
    """A plain dict in order of use is the specification."""

    def __init__(self) -> None:
        super().__init__()
        self.evicted: list[int] = []
        self.cache: ByteBudgetCache[int, str] = ByteBudgetCache(
            BUDGET, on_evict=lambda key, _: self.evicted.append(key)
        )
        self.model: dict[int, ModelEntry] = {}

    def touch(self, key: int) -> None:
        self.model[key] = self.model.pop(key)

    @rule(key=KEYS, num_bytes=st.integers(0, 12), acquire=st.booleans())
    def insert(self, key: int, num_bytes: int, acquire: bool) -> None:
        if key not in self.model:
            held_bytes = sum(entry.num_bytes for entry in self.model.values() if entry.held)
            if held_bytes + num_bytes > BUDGET:
                before = list(self.cache.keys())
                with pytest.raises(BudgetExceeded):
                    self.cache.insert(key, f"value {key}", num_bytes, acquire=acquire)
                assert self.cache.keys() == before
                return
            for old in list(self.model):
                if sum(entry.num_bytes for entry in self.model.values()) + num_bytes <= BUDGET:
                    break
                if not self.model[old].held:
                    del self.model[old]
            self.model[key] = ModelEntry(num_bytes)
        assert self.cache.insert(key, f"value {key}", num_bytes, acquire=acquire) == f"value {key}"
        self.touch(key)
        self.model[key].leaving = False
        self.model[key].references += acquire

    @rule(key=KEYS)
    def acquire(self, key: int) -> None:
        value = self.cache.acquire(key)
        assert (value is not None) == (key in self.model)
        if value is not None:
            self.touch(key)
            self.model[key].references += 1

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        assert (self.cache.get_or_none(key) is not None) == (key in self.model)
        if key in self.model:
            self.touch(key)

    @rule(key=KEYS)
    def release(self, key: int) -> None:
        if key not in self.model:
            with pytest.raises(KeyError):
                self.cache.release(key)
            return
        entry = self.model[key]
        if entry.references == 0:
            with pytest.raises(ValueError, match="released more often"):
                self.cache.release(key)
            return
        self.cache.release(key)
        entry.references -= 1
        if entry.leaving and not entry.held:
            del self.model[key]

    @rule(key=KEYS)
    def pin(self, key: int) -> None:
        assert self.cache.pin(key) == (key in self.model)
        if key in self.model:
            self.model[key].pinned, self.model[key].leaving = True, False

    @rule(key=KEYS)
    def unpin(self, key: int) -> None:
        self.cache.unpin(key)
        if key in self.model:
            self.model[key].pinned = False

    @rule(key=KEYS)
    def evict(self, key: int) -> None:
        gone = key not in self.model or not self.model[key].held
        assert self.cache.evict(key) == gone
        if gone:
            self.model.pop(key, None)

    @rule(key=KEYS)
    def drop_when_unheld(self, key: int) -> None:
        entry = self.model.get(key)
        gone = entry is None or entry.references == 0
        assert self.cache.drop_when_unheld(key) == gone
        if entry is not None and gone:
            del self.model[key]
        elif entry is not None:
            entry.leaving, entry.pinned = True, False

    @invariant()
    def holds_what_the_model_holds_in_its_order_and_within_the_budget(self) -> None:
        assert self.cache.keys() == list(self.model)
        counts = self.cache.counts()
        assert counts.num_bytes == sum(entry.num_bytes for entry in self.model.values()) <= BUDGET
        assert counts.held_bytes == sum(entry.num_bytes for entry in self.model.values() if entry.held)
        assert counts.num_held == sum(entry.held for entry in self.model.values())
        assert all(self.cache.num_references(key) == entry.references for key, entry in self.model.items())


TestCacheAgainstItsModel = CacheAgainstItsModel.TestCase
TestCacheAgainstItsModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_every_entry_that_leaves_is_told_once() -> None:
    told: list[tuple[str, int]] = []
    cache: ByteBudgetCache[str, int] = ByteBudgetCache(2, on_evict=lambda key, value: told.append((key, value)))
    cache.insert("a", 1, 1)
    cache.insert("b", 2, 1, acquire=True)
    cache.insert("c", 3, 1)
    assert told == [("a", 1)]
    assert not cache.drop_when_unheld("b")
    assert cache.acquire("b") == 2
    cache.release("b")
    assert told == [("a", 1)]
    cache.release("b")
    assert told == [("a", 1), ("b", 2)]


def test_a_value_larger_than_the_budget_is_refused_with_the_figures() -> None:
    cache: ByteBudgetCache[str, int] = ByteBudgetCache(100, what="values")
    with pytest.raises(BudgetExceeded, match=r"values 'a' needs 101 bytes; the budget is 100, 0 are held"):
        cache.insert("a", 1, 101)
