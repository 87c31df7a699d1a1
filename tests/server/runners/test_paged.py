from __future__ import annotations

import pytest

from adapters_store.blend import BASE
from server.core.steps import Reused
from tests.server.runners.conftest import Load
from tests.server.runners.rig import Rig

PROMPT = tuple(range(10, 60))  # three full pages and two tokens


def used(rig: Rig) -> int:
    return int(rig.runner.describe()["num_used_pages"])


def test_a_common_beginning_is_computed_once_and_answers_the_same(load: Load) -> None:
    rig = Rig(load("llama"), "paged")
    assert rig.begin("a", PROMPT) == Reused()
    rig.run("a", steps=5)
    assert rig.begin("b", PROMPT) == Reused(num_tokens=48)
    assert rig.begin("c", (*PROMPT[:32], 7)) == Reused(num_tokens=32)
    rig.run("bc", steps=5)
    assert rig.answer("b") == rig.answer("a")
    fresh = Rig(load("llama"), "paged")
    fresh.begin("c", (*PROMPT[:32], 7))
    fresh.run("c", steps=5)
    assert rig.answer("c") == fresh.answer("c")


def test_nothing_is_reused_across_tenants_and_blends(load: Load) -> None:
    rig = Rig(load("llama"), "paged")
    blend = rig.blend(1)
    rig.begin("a", PROMPT)
    rig.step("a")
    assert rig.begin("b", PROMPT, tenant="other") == Reused()
    assert rig.begin("c", PROMPT, blend) == Reused()
    assert rig.begin("d", PROMPT, rig.blend(1, scale=0.5)) == Reused()
    rig.step("c", active=blend)
    assert rig.begin("e", PROMPT, blend) == Reused(num_tokens=48)


def test_a_request_that_must_be_fused_takes_nothing_that_was_mixed(load: Load) -> None:
    rig = Rig(load("llama"), "paged")
    blend = rig.blend(1)
    rig.begin("a", PROMPT, blend)
    rig.step("a", active=BASE)  # beside the base: mixed
    assert rig.begin("b", PROMPT, blend) == Reused(num_tokens=48, mode="mixed")
    assert rig.begin("c", PROMPT, blend, must_be_fused=True) == Reused()
    rig.step("c", active=blend)
    assert rig.begin("d", PROMPT, blend, must_be_fused=True) == Reused(num_tokens=48)


def test_a_paused_sequence_finds_its_own_pages_again(load: Load) -> None:
    rig = Rig(load("llama"), "paged")
    rig.begin("a", PROMPT)
    rig.run("a", steps=20)
    rig.pause("a")
    assert used(rig) == 0
    assert rig.go_on("a") == Reused(num_tokens=64)  # of 50 + 20 tokens, one of which has no KV yet
    rig.run("a", steps=5)
    fresh = Rig(load("llama"), "paged")
    fresh.begin("a", PROMPT)
    fresh.run("a", steps=25)
    assert rig.answer("a") == fresh.answer("a")


def test_pages_come_back_when_sequences_leave(load: Load) -> None:
    rig = Rig(load("llama"), "paged")
    for name in "abc":
        rig.begin(name, PROMPT[: 20 + ord(name) - ord("a")])
    rig.run("abc", steps=3)
    assert used(rig) > 0
    rig.runner.drop(list(rig.tokens))
    assert used(rig) == 0


def test_memory_bounds_what_fits(load: Load) -> None:
    bytes_per_token = 2 * 2 * (8 + 16) * 4  # layers, KV heads, a key and a padded value, fp32
    runner = Rig(load("llama"), "paged", kv_budget_bytes=10 * 16 * bytes_per_token).runner
    assert runner.max_sequence_tokens == 160
    assert runner.fits([160])
    assert not runner.fits([161])
    assert runner.fits([16] * 10)
    assert not runner.fits([17] + [16] * 9)


@pytest.mark.parametrize("chunk", [1, 5, 16, 17])
def test_chunks_of_a_prompt_give_what_the_whole_gives(load: Load, chunk: int) -> None:
    loaded = load("llama")
    whole, cut = Rig(loaded, "paged"), Rig(loaded, "paged")
    for rig in (whole, cut):
        rig.begin("a", PROMPT, rig.blend(1))
    whole.step("a")
    while not cut.answer("a"):
        cut.step("a", chunk=chunk)
    whole.run("a", steps=20)
    cut.run("a", steps=20)
    assert cut.answer("a") == whole.answer("a")
