"""Regressions: each test tells its bug."""

from __future__ import annotations

from adapters_store.blend import BASE, BlendKey
from server.core.errors import QueueFull
from server.engine.fairness import Counters
from server.engine.rates import NUM_STEPS_KNOWN, Rates
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend, make_request

X, A, B = make_blend("x"), make_blend("a"), make_blend("b")


def test_a_fused_request_has_its_turns_though_others_of_its_blend_run_in_every_step() -> None:
    """They made the blend look as if it had just run, and it had one quantum in a patience."""
    desk = Desk(patience_steps=10_000)
    auto = desk.ask(X, max_new_tokens=5000, ignore_eos=True)
    fused = [desk.ask(blend, max_new_tokens=5000, ignore_eos=True, mode="fused") for blend in (X, A, B)]
    desk.turns(600)
    tokens = [desk.num_tokens(request) for request in fused]
    assert min(tokens) > 0.8 * max(tokens), tokens
    assert desk.num_tokens(auto) > 500


def test_an_idle_server_refuses_nobody_by_what_was_slow_before() -> None:
    """Refusals run no steps, so the slow figure never went away."""
    rates = Rates()
    for number in range(NUM_STEPS_KNOWN):
        rates.ran(0.4, now=float(number), cost=1.0)
    assert rates.least_s((), 1, 1.0) > 0
    rates.idle()
    assert rates.least_s((), 1, 1.0) == 0


def test_blends_that_have_gone_leave_no_counters_behind() -> None:
    """A client that never idles and always asks for another scale filled the memory."""
    counters: Counters[BlendKey] = Counters(remembers=False)
    counters.join(BASE.key)
    for number in range(100):
        key = BlendKey(f"blend {number}")
        counters.join(key)
        counters.charge(key, 50.0)
        counters.leave(key)
    assert len(counters._service) == 1


def test_parked_requests_count_as_waiting() -> None:
    """Each freed a place in the queue when it was parked, so that there was no end of them."""
    desk = Desk(max_queue=4, max_batch=1, patience_steps=2, turn_steps=2)
    for blend in (X, A, B, BASE):
        desk.ask(blend, max_new_tokens=1000, ignore_eos=True)
        desk.turns(1)
    desk.turns(50)
    assert desk.scheduler.num_running == 1
    assert len(desk.scheduler.sequences) == 4
    assert desk.scheduler.refusal([make_request()], desk.clock.now()) is None
    desk.ask(BASE, max_new_tokens=1000, ignore_eos=True)
    assert isinstance(desk.scheduler.refusal([make_request()], desk.clock.now()), QueueFull)


def test_relating_many_blends_to_the_one_that_came_first_is_avoided() -> None:
    """One adapter went in at once, and then all that came after it were made ready beside it, for more than they ever
    saved."""
    desk = Desk()
    desk.ask(X, max_new_tokens=200, ignore_eos=True)
    desk.turns(3)
    assert desk.execution.active.key == X.key
    for number in range(8):
        desk.ask(make_blend(f"other {number}"), max_new_tokens=200, ignore_eos=True)
    desk.turns(3)
    assert desk.execution.active.key == BASE.key
