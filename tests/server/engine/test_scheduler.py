from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from adapters_store.blend import BASE, Blend
from server.core.errors import Draining, QueueFull, RequestRejected
from server.core.requests import RequestId
from server.core.steps import NewSequence
from server.engine.scheduler import Limits, Plan, Scheduler
from server.engine.sequence import Sequence
from tests.server.engine.fakes import make_blend, make_request

A, B = make_blend("a"), make_blend("b")


def scheduler(can_admit: Callable[[list[NewSequence]], bool] = lambda new: True, **limits: int) -> Scheduler:
    return Scheduler(Limits(**limits), max_sequence_tokens=108, can_admit=can_admit)


def add(
    to: Scheduler,
    blend: Blend = BASE,
    *,
    num_prompt_tokens: int = 2,
    arrived_s: float = 0.0,
    deadline_s: float | None = None,
) -> Sequence:
    request = make_request(blend, num_prompt_tokens=num_prompt_tokens, arrived_s=arrived_s, deadline_s=deadline_s)
    sequence = Sequence(request=request, sink=lambda event: None)
    assert to.refusal(sequence.new) is None
    group = to.add(sequence)
    if group is not None:
        to.loaded(group)
    return sequence


def ids(plan: Plan | None) -> list[RequestId]:
    assert plan is not None
    return [sequence.id for sequence in plan.sequences]


def test_requests_of_one_blend_run_together() -> None:
    s = scheduler()
    first, second = add(s, A), add(s, A)
    assert ids(s.plan()) == [first.id, second.id]


def test_a_request_that_arrives_joins_the_ones_that_run() -> None:
    s = scheduler()
    first = add(s, A)
    s.plan()
    second = add(s, A)
    plan = s.plan()
    assert plan is not None
    assert (plan.starting, plan.running) == ((second,), (first,))


def test_requests_of_two_blends_never_share_a_step() -> None:
    s = scheduler(quantum_steps=1)
    a, b = add(s, A), add(s, B)
    assert [ids(s.plan()), ids(s.plan()), ids(s.plan())] == [[a.id], [b.id], [a.id]]


def test_a_blend_that_is_still_loading_stops_nobody() -> None:
    s = scheduler()
    loading = Sequence(request=make_request(A), sink=lambda event: None)
    group = s.add(loading)
    ready = add(s, B)
    assert ids(s.plan()) == [ready.id]
    assert group is not None
    s.loaded(group)
    s.remove(ready)
    assert ids(s.plan()) == [loading.id]


def test_a_load_that_was_asked_for_by_an_earlier_group_is_not_taken_for_this_one() -> None:
    s = scheduler()
    gone = Sequence(request=make_request(A), sink=lambda event: None)
    first = s.add(gone)
    s.remove(gone)
    second = s.add(Sequence(request=make_request(A), sink=lambda event: None))
    assert first is not None
    assert second is not None
    assert s.loading(A.key, first.load) is None
    assert s.loading(A.key, second.load) is second


def test_a_batch_takes_no_more_rows_than_its_limit() -> None:
    s = scheduler(max_batch=2)
    waiting = [add(s) for _ in range(3)]
    assert ids(s.plan()) == [w.id for w in waiting[:2]]
    s.remove(waiting[0])
    assert set(ids(s.plan())) == {waiting[1].id, waiting[2].id}


def test_the_prompts_of_one_step_are_bounded_but_one_always_runs() -> None:
    s = scheduler(max_prefill_tokens=10)
    long, short = add(s, num_prompt_tokens=50), add(s, num_prompt_tokens=5)
    assert ids(s.plan()) == [long.id]
    assert set(ids(s.plan())) == {long.id, short.id}


def test_a_short_prompt_beside_a_long_one_counts_as_long_as_it() -> None:
    """Rows are padded to the longest: many short prompts beside a long one made a step of many long ones."""
    s = scheduler(max_prefill_tokens=100)
    prompts = [add(s, num_prompt_tokens=45), *(add(s, num_prompt_tokens=2) for _ in range(5))]
    plan = s.plan()
    assert plan is not None
    assert plan.starting == tuple(prompts[:2])
    assert ids(s.plan()) == [prompt.id for prompt in (*prompts[2:], *prompts[:2])]


def test_a_large_request_that_finds_no_memory_is_not_overtaken_by_younger_ones() -> None:
    live: list[int] = []
    s = scheduler(lambda new: sum(live) + sum(len(n.prompt_tokens) for n in new) <= 100)
    running = add(s, num_prompt_tokens=60, arrived_s=1)
    s.plan()
    live.append(60)
    large = add(s, A, num_prompt_tokens=90, arrived_s=2)
    add(s, B, num_prompt_tokens=15, arrived_s=3)
    for _ in range(40):
        assert ids(s.plan()) == [running.id]
    s.remove(running)
    live.clear()
    assert ids(s.plan()) == [large.id]


def test_the_current_blend_keeps_memory_free_for_an_older_request_of_another() -> None:
    live: list[int] = [50]
    s = scheduler(lambda new: sum(live) + sum(len(n.prompt_tokens) for n in new) <= 100)
    running = add(s, num_prompt_tokens=50, arrived_s=1)
    s.plan()
    add(s, A, num_prompt_tokens=40, arrived_s=2)
    add(s, num_prompt_tokens=20, arrived_s=3)
    assert ids(s.plan()) == [running.id]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    s = scheduler(max_queue=2)
    add(s)
    add(s)
    refusal = s.refusal(make_request_new())
    assert isinstance(refusal, QueueFull)
    assert refusal.retry_after_s >= 1
    s.plan()
    assert s.refusal(make_request_new()) is None


def test_a_request_that_could_never_run_is_refused_at_once() -> None:
    assert scheduler().refusal(make_request_new(num_prompt_tokens=100)) is None
    refusal = scheduler().refusal(make_request_new(num_prompt_tokens=101))
    assert isinstance(refusal, RequestRejected)
    assert refusal.param is None
    assert "101 prompt tokens and 8 new ones" in str(refusal)
    assert "room for 108 tokens" in str(refusal)
    assert "kv_budget_bytes" in str(refusal)


def test_a_draining_server_takes_nothing_new() -> None:
    s = scheduler()
    s.is_draining = True
    assert isinstance(s.refusal(make_request_new()), Draining)


def test_deadlines_are_told_in_time() -> None:
    s = scheduler()
    never, soon = add(s), add(s, deadline_s=5.0)
    assert s.next_deadline() == 5.0
    assert s.expired(4.9) == []
    assert s.expired(5.0) == [soon]
    assert never in s.sequences


def test_the_last_request_of_a_blend_lets_its_bytes_go() -> None:
    s = scheduler()
    first, second, base = add(s, A), add(s, A), add(s)
    assert s.uses(A.versions[0])
    assert s.remove(first) is None
    assert s.remove(second) == A
    assert s.remove(base) is None
    assert not s.uses(A.versions[0])


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=40),
    quantum=st.integers(1, 4),
    max_batch=st.integers(1, 4),
)
def test_every_request_is_served(arrivals: list[tuple[int, int]], quantum: int, max_batch: int) -> None:
    """Whatever arrives while others run: with room for six rows in memory nobody starves."""
    s: Scheduler

    def can_admit(new: list[NewSequence]) -> bool:
        return s.num_running + len(new) <= 6

    s = scheduler(can_admit, quantum_steps=quantum, max_batch=max_batch)
    blends = [BASE, A, B, make_blend("a", "b")]
    left: dict[RequestId, int] = {}
    for step in range(2000):
        if step < len(arrivals):
            blend, length = arrivals[step]
            left[add(s, blends[blend], arrived_s=float(step)).id] = length
        plan = s.plan()
        if plan is None:
            if step >= len(arrivals):
                break
            continue
        assert len(plan.sequences) <= max_batch
        for sequence in plan.sequences:
            assert sequence.request.blend == plan.blend
            left[sequence.id] -= 1
            if left[sequence.id] == 0:
                s.remove(sequence)
    assert s.sequences == []
    assert all(tokens == 0 for tokens in left.values())


def make_request_new(num_prompt_tokens: int = 2) -> NewSequence:
    return Sequence(request=make_request(num_prompt_tokens=num_prompt_tokens), sink=lambda event: None).new
