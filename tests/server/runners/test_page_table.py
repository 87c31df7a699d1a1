"""The laws of the KV memory's bookkeeping, driven as a state machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from adapters_store.blend import BlendKey
from server.core.requests import Mode
from server.runners.page_table import PAGE_TOKENS, OutOfPages, PagedSequence, PageTable, num_pages_of

NUM_PAGES = 12
TENANTS = st.sampled_from(["a", "b"])
BLENDS = st.sampled_from([BlendKey("x"), BlendKey("y")])
MODES: st.SearchStrategy[Mode] = st.sampled_from(["fused", "mixed"])
Written = tuple[str, BlendKey, tuple[Mode, ...], tuple[int, ...]]  # what a page's KV was computed from


@dataclass(slots=True, kw_only=True, eq=False)  # two that hold the same are still two
class Running:
    tenant: str
    blend: BlendKey
    tokens: list[int]
    modes: list[Mode]  # in which each token was computed
    paged: PagedSequence


class Paging(RuleBasedStateMachine):
    """Beside the table it keeps what each page truly holds, as the decoder's memory would."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PageTable(NUM_PAGES)
        self.held: list[Running] = []
        self.memory: dict[int, Written] = {}  # of pages that are full

    running: Bundle[Running] = Bundle("running")

    @rule(
        target=running,
        tenant=TENANTS,
        blend=BLENDS,
        num_tokens=st.integers(1, 80),
        first=st.integers(0, 1),
        must_be_fused=st.booleans(),
    )
    def begin(self, tenant: str, blend: BlendKey, num_tokens: int, first: int, must_be_fused: bool) -> Running:
        tokens = [first, *range(1, num_tokens)]  # many prompts begin alike
        paged = self.table.begin(tenant, blend, tokens, must_be_fused=must_be_fused)
        assert paged.num_tokens < num_tokens
        assert paged.num_tokens == PAGE_TOKENS * len(paged.pages)
        modes: list[Mode] = []
        for number, page in enumerate(paged.pages):
            holds = self.memory[page]
            assert holds[:2] == (tenant, blend)
            assert holds[3] == tuple(tokens[: PAGE_TOKENS * (number + 1)])
            assert not must_be_fused or "mixed" not in holds[2]
            modes = list(holds[2])
        assert paged.mode == ("mixed" if "mixed" in modes else "fused")
        sequence = Running(tenant=tenant, blend=blend, tokens=tokens, modes=modes, paged=paged)
        self.held.append(sequence)
        return sequence

    @rule(sequence=running, num_tokens=st.integers(1, 40), mode=MODES)
    def compute(self, sequence: Running, num_tokens: int, mode: Mode) -> None:
        before = list(sequence.paged.pages)
        start = sequence.paged.num_tokens
        missing = num_pages_of(start + num_tokens) - len(before)
        if missing > NUM_PAGES - self.table.num_used_pages:
            with pytest.raises(OutOfPages):
                self.table.reserve(sequence.paged, num_tokens)
            assert list(sequence.paged.pages) == before
            return
        self.table.reserve(sequence.paged, num_tokens)
        tokens = (sequence.tokens + list(range(1000, 1080)))[start : start + num_tokens]
        sequence.tokens[start : start + num_tokens] = tokens
        sequence.modes += [mode] * num_tokens
        writes = {position // PAGE_TOKENS for position in range(start, start + num_tokens)}
        for number in writes:
            page = sequence.paged.pages[number]
            assert sum(page in other.paged.pages for other in self.held) == 1, "a shared page would be written"
            self.memory.pop(page, None)
        self.table.fill(sequence.paged, tokens, mode)
        for number in range(start // PAGE_TOKENS, sequence.paged.num_tokens // PAGE_TOKENS):
            end = PAGE_TOKENS * (number + 1)
            known = (tuple(sequence.modes[:end]), tuple(sequence.tokens[:end]))
            self.memory[sequence.paged.pages[number]] = (sequence.tenant, sequence.blend, *known)
        assert sequence.paged.mode == ("mixed" if "mixed" in sequence.modes else "fused")

    @rule(sequence=consumes(running))
    def release(self, sequence: Running) -> None:
        self.held.remove(sequence)
        full = sequence.paged.num_tokens // PAGE_TOKENS * PAGE_TOKENS
        self.table.release(sequence.paged)
        found = self.table.begin(sequence.tenant, sequence.blend, [*sequence.tokens[:full], -1])
        assert found.num_tokens == full, "what was just let go is found again"
        self.table.release(found)

    @invariant()
    def every_page_is_used_or_cached_or_free(self) -> None:
        holders = Counter(page for sequence in self.held for page in sequence.paged.pages)
        assert self.table.num_used_pages == len(holders)
        assert self.table.num_used_pages + self.table.num_cached_pages <= NUM_PAGES

    @invariant()
    def everything_let_go_can_be_used_again(self) -> None:
        probe = PagedSequence(chain=b"probe")
        room = NUM_PAGES - self.table.num_used_pages
        with pytest.raises(OutOfPages):
            self.table.reserve(probe, (room + 1) * PAGE_TOKENS)
        assert not probe.pages


Paging.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_paging_keeps_its_laws = Paging.TestCase


def table_with(
    modes: list[Literal["fused", "mixed"]], num_pages: int = 8
) -> tuple[PageTable, PagedSequence, list[int]]:
    """A sequence of one page per mode, still held."""
    table, tokens = PageTable(num_pages), list(range(PAGE_TOKENS * len(modes)))
    sequence = table.begin("t", BlendKey("x"), tokens)
    for number, mode in enumerate(modes):
        table.reserve(sequence, PAGE_TOKENS)
        table.fill(sequence, tokens[PAGE_TOKENS * number :][:PAGE_TOKENS], mode)
    return table, sequence, tokens


def test_the_last_token_is_never_reused() -> None:
    table, sequence, tokens = table_with(["fused", "fused"])
    assert table.begin("t", BlendKey("x"), tokens).num_tokens == PAGE_TOKENS
    assert list(table.begin("t", BlendKey("x"), [*tokens, 7]).pages) == list(sequence.pages)


def test_nothing_is_found_under_another_tenant_or_blend_or_mode() -> None:
    table, _, tokens = table_with(["fused", "mixed"])
    assert table.begin("u", BlendKey("x"), tokens).num_tokens == 0
    assert table.begin("t", BlendKey("y"), tokens).num_tokens == 0
    assert table.begin("t", BlendKey("x"), [*tokens, 7]).mode == "mixed"
    fused = table.begin("t", BlendKey("x"), [*tokens, 7], must_be_fused=True)
    assert (fused.num_tokens, fused.mode) == (PAGE_TOKENS, "fused")


def test_tenant_and_blend_cannot_be_confused_by_their_spelling() -> None:
    table = PageTable(2)
    sequence = table.begin("ab", BlendKey("c"), [])
    table.reserve(sequence, PAGE_TOKENS)
    table.fill(sequence, range(PAGE_TOKENS), "fused")
    assert table.begin("a", BlendKey("bc"), range(17)).num_tokens == 0


def test_the_longer_of_two_known_beginnings_is_taken() -> None:
    table, mixed, tokens = table_with(["mixed", "mixed", "mixed"])
    fused = table.begin("t", BlendKey("x"), tokens, must_be_fused=True)
    table.reserve(fused, PAGE_TOKENS)
    table.fill(fused, tokens[:PAGE_TOKENS], "fused")
    assert list(table.begin("t", BlendKey("x"), [*tokens, 7]).pages) == list(mixed.pages)
    assert list(table.begin("t", BlendKey("x"), tokens[:20]).pages) == list(fused.pages)


def test_pages_idle_longest_go_first_and_the_end_of_a_sequence_before_its_beginning() -> None:
    table, sequence, tokens = table_with(["fused", "fused", "fused"], num_pages=4)
    table.release(sequence)
    assert (table.num_used_pages, table.num_cached_pages) == (0, 3)
    other = table.begin("u", BlendKey("x"), [1])
    table.reserve(other, 3 * PAGE_TOKENS)
    assert (table.num_used_pages, table.num_cached_pages) == (3, 1)
    assert table.begin("t", BlendKey("x"), [*tokens, 7]).num_tokens == PAGE_TOKENS


def test_it_fits_when_the_pages_suffice_without_sharing() -> None:
    table = PageTable(4)
    assert table.fits([16, 17, 1])
    assert not table.fits([17, 17, 1])
    assert table.fits([])
