"""Who runs when: the engine without its thread, over a runner that checks every step."""

from __future__ import annotations

from dataclasses import replace

from adapters_store.blend import BASE
from adapters_store.errors import AdapterUnavailable, BudgetExceeded
from server.core.errors import (
    Aborted,
    StepFailed,
)
from server.core.requests import LikelyToken, Mode, TokenLogprob
from server.core.steps import LoadReport, Reused, StepToken
from server.engine.batch import share_out
from server.engine.cost import CostModel
from server.engine.inbox import Inbox
from server.engine.messages import Abort, TextEvent
from server.engine.text_sequence import TextSequence
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import FINGERPRINT, Client, make_blend, make_request, submit

A, B = make_blend("a"), make_blend("b")
FREE_TO_MIX = CostModel(correction_s=0.0, patch_s=0.0)


def mode_of(client: Client) -> Mode:
    return client.end.receipt.mode


# Steps.


def test_a_request_that_arrives_joins_the_ones_that_run() -> None:
    desk = Desk()
    first = desk.ask(A)
    desk.turns(2)
    second = desk.ask(A, num_prompt_tokens=7)
    desk.turn()
    assert desk.last_step() == (A.key, {first: 1, second: 7})


def test_requests_of_several_blends_share_a_step() -> None:
    desk = Desk(costs=FREE_TO_MIX)
    requests = [desk.ask(blend) for blend in (A, B, BASE)]
    desk.turns(3)
    assert desk.last_step()[1] == dict.fromkeys(requests, 1)
    desk.run_out()
    modes = sorted(mode_of(desk.clients[request]) for request in requests)
    assert modes == ["fused", "mixed", "mixed"]


def test_a_long_prompt_comes_in_chunks_and_holds_up_no_row_that_decodes() -> None:
    desk = Desk(max_batch=2, max_step_tokens=100)
    short = desk.ask(max_new_tokens=50)
    desk.turn()
    long = desk.ask(num_prompt_tokens=350, max_new_tokens=50)
    chunks = []
    for _ in range(5):
        desk.turn()
        work = desk.last_step()[1]
        assert work[short] == 1
        chunks.append(work[long])
    assert chunks == [99, 99, 99, 53, 1]
    assert desk.num_tokens(short) == 6
    assert desk.num_tokens(long) == 2


def test_prompts_are_taken_in_the_order_in_which_they_started() -> None:
    desk = Desk(max_batch=3, max_step_tokens=100)
    first, second = desk.ask(num_prompt_tokens=150), desk.ask(num_prompt_tokens=80)
    desk.turn()
    assert desk.last_step()[1] == {first: 100}
    desk.turn()
    assert desk.last_step()[1] == {first: 50, second: 50}


def test_the_prompt_of_who_has_waited_too_long_comes_first() -> None:
    prompts = [TextSequence(request=make_request(num_prompt_tokens=90), sink=Client()) for _ in range(2)]
    row = TextSequence(request=make_request(num_prompt_tokens=1), sink=Client())
    early, late = prompts
    assert share_out([early, late, row], None, 100) == [(row, 1), (early, 90), (late, 9)]
    assert share_out([early, late, row], late, 100) == [(row, 1), (late, 90), (early, 9)]


def test_a_step_has_room_for_every_row_and_some_of_a_prompt_whatever_the_limits_say() -> None:
    desk = Desk(max_batch=100, max_step_tokens=10)
    for _ in range(100):
        desk.ask(max_new_tokens=50)
    desk.turns(3)
    long = desk.ask(num_prompt_tokens=1000)
    assert desk.num_tokens(long) == 0
    desk.turn()
    assert max(sum(item.num_tokens for item in work) for _, work in desk.runner.steps) <= 164


def test_a_batch_takes_no_more_rows_than_its_limit() -> None:
    desk = Desk(max_batch=2, costs=FREE_TO_MIX)
    waiting = [desk.ask(blend, max_new_tokens=4) for blend in (BASE, A, BASE, B)]
    desk.turn()
    assert set(desk.last_step()[1]) == {waiting[0], waiting[2]}
    desk.turns(4)
    assert set(desk.last_step()[1]) == {waiting[1], waiting[3]}


def test_what_is_found_in_the_memory_is_not_computed_again() -> None:
    desk = Desk()
    desk.runner.reused = Reused(num_tokens=30)
    request = desk.ask(num_prompt_tokens=40)
    desk.turn()
    assert desk.last_step()[1] == {request: 10}
    desk.run_out()
    assert mode_of(desk.clients[request]) == "fused"
    assert desk.value("shira_prefix_tokens_reused_total") == 30


def test_an_answer_that_reuses_what_was_computed_mixed_is_mixed() -> None:
    desk = Desk()
    desk.runner.reused = Reused(num_tokens=30, mode="mixed")
    request = desk.ask(num_prompt_tokens=40)
    desk.run_out()
    assert mode_of(desk.clients[request]) == "mixed"


# Modes.


def test_who_asks_for_fused_runs_fused_whatever_runs_beside() -> None:
    desk = Desk(costs=FREE_TO_MIX, quantum_steps=3)
    strict = [desk.ask(blend, mode="fused", max_new_tokens=20) for blend in (A, B, BASE)]
    others = [desk.ask(blend, max_new_tokens=20) for blend in (A, B, BASE)]
    desk.run_out()
    assert {mode_of(desk.clients[request]) for request in strict} == {"fused"}
    assert {mode_of(desk.clients[request]) for request in others} == {"mixed"}


def test_a_blend_that_cannot_be_mixed_takes_turns_with_the_others() -> None:
    desk = Desk(costs=FREE_TO_MIX, quantum_steps=3)
    desk.execution.unmixable = {A.key, B.key}
    requests = [desk.ask(blend, max_new_tokens=9) for blend in (A, B)]
    desk.run_out()
    assert {mode_of(desk.clients[request]) for request in requests} == {"fused"}
    assert desk.execution.activated == [A.key, B.key] * 3


def test_a_blend_that_fails_beside_another_fails_alone() -> None:
    desk = Desk(costs=FREE_TO_MIX)
    bad = AdapterUnavailable("b", reason="lost")
    good, failed = desk.ask(A), desk.ask(B)
    desk.execution.beside_failures = {B.key: bad}
    desk.run_out()
    assert desk.num_tokens(good) == 8
    assert desk.clients[failed].error is bad


def test_a_blend_that_finds_no_room_beside_another_waits_for_the_next_step() -> None:
    desk = Desk(costs=FREE_TO_MIX)
    full = BudgetExceeded("device", needed_bytes=2, budget_bytes=1, held_bytes=1)
    first, second = desk.ask(A, max_new_tokens=5), desk.ask(B, max_new_tokens=5)
    base = desk.ask(max_new_tokens=200)
    desk.turns(2)
    desk.execution.beside_failures = {B.key: full}
    desk.turns(5)
    assert desk.num_tokens(first) == 5
    desk.execution.beside_failures = {}
    desk.run_out()
    assert desk.num_tokens(second) == 5
    assert desk.num_tokens(base) == 200


def test_a_blend_that_never_finds_room_beside_another_runs_alone() -> None:
    desk = Desk(costs=FREE_TO_MIX, quantum_steps=4)
    full = BudgetExceeded("device", needed_bytes=2, budget_bytes=1, held_bytes=1)
    desk.execution.beside_failures = {A.key: full, B.key: full}
    requests = [desk.ask(blend, max_new_tokens=50) for blend in (A, B, BASE)]
    desk.run_out()
    assert [desk.num_tokens(request) for request in requests] == [50, 50, 50]


# KV memory.


def test_sequences_that_outgrow_the_memory_are_parked_and_lose_no_work() -> None:
    desk = Desk(max_kv_tokens=60, headroom_tokens=1)
    requests = [desk.ask(num_prompt_tokens=10, max_new_tokens=40) for _ in range(4)]
    desk.run_out()
    for request in requests:
        client = desk.clients[request]
        assert client.text.split() == [str(number) for number in range(40)]
        assert client.end.usage.completion_tokens == 40
    assert (desk.value("shira_parked_total", reason="memory") or 0) > 0
    assert desk.runner.live == {}


def test_who_has_least_claim_is_parked_first() -> None:
    desk = Desk(max_kv_tokens=60, headroom_tokens=1)
    heavy = desk.ask(num_prompt_tokens=20, max_new_tokens=30, client="heavy", weight=0.1)
    light = desk.ask(num_prompt_tokens=20, max_new_tokens=30, client="light", weight=10.0)
    while desk.num_tokens(light) < 30:
        desk.turn()
    assert desk.num_tokens(heavy) < 20
    desk.run_out()
    assert desk.num_tokens(heavy) == 30


def test_a_sequence_starts_only_where_there_is_room_for_it_to_grow() -> None:
    desk = Desk(max_kv_tokens=60, headroom_tokens=20)
    first = desk.ask(num_prompt_tokens=10, max_new_tokens=40)
    desk.ask(num_prompt_tokens=15, max_new_tokens=40)
    desk.turns(5)
    assert set(desk.last_step()[1]) == {first}


def test_a_large_request_that_finds_no_memory_is_not_overtaken() -> None:
    desk = Desk(max_kv_tokens=100, headroom_tokens=0, costs=FREE_TO_MIX)
    running = desk.ask(num_prompt_tokens=60, max_new_tokens=30)
    desk.turn()
    large = desk.ask(A, num_prompt_tokens=90, max_new_tokens=5, client="x")
    desk.turns(2)
    small = desk.ask(num_prompt_tokens=5, max_new_tokens=5, client="x")
    desk.turns(20)
    assert desk.num_tokens(running) == 23
    assert desk.num_tokens(small) == 0
    desk.turns(9)
    assert large in desk.last_step()[1]
    desk.run_out()
    assert desk.num_tokens(small) == 5


# Patience.


def test_who_has_waited_too_long_takes_the_place_of_one_that_had_its_turn() -> None:
    desk = Desk(max_batch=1, patience_steps=10, turn_steps=4)
    long = desk.ask(max_new_tokens=200, client="a")
    desk.turn()
    late = desk.ask(max_new_tokens=200, client="b")
    desk.turns(13)
    assert desk.num_tokens(late) > 0
    desk.run_out()
    assert desk.clients[long].text.split() == [str(number) for number in range(200)]
    assert (desk.value("shira_parked_total", reason="turn") or 0) > 0


def test_nobody_is_parked_within_its_turn() -> None:
    desk = Desk(max_batch=1, patience_steps=2, turn_steps=8)
    for client in "abc":
        desk.ask(max_new_tokens=40, client=client)
    runs: list[int] = []
    last = None
    while desk.turn():
        (only,) = desk.last_step()[1]
        if only == last:
            runs[-1] += 1
        else:
            runs.append(1)
        last = only
    assert min(runs[:-3]) >= 8


def test_of_one_clients_backlog_only_the_first_of_a_blend_has_waited() -> None:
    """Else all of a heavy client's requests would go ahead of a light client's, once they have waited long enough."""
    desk = Desk(max_batch=1, patience_steps=20, turn_steps=1000)
    for _ in range(50):
        desk.ask(max_new_tokens=10, client="heavy")
    desk.turns(100)
    light = desk.ask(max_new_tokens=10, client="light")
    desk.turns(21)
    assert desk.num_tokens(light) == 10


# Ends.


def test_an_abort_that_comes_while_a_step_runs_is_honoured_before_its_result_is_sent() -> None:
    desk = Desk()
    request, other = desk.ask(), desk.ask()
    desk.turns(2)
    before = len(desk.clients[request].events)
    desk.late_aborts = [request]
    desk.turn()
    assert len(desk.clients[request].events) == before + 1
    assert isinstance(desk.clients[request].error, Aborted)
    assert set(desk.runner.live) == {other}


def test_a_request_that_the_runner_cannot_begin_fails_alone() -> None:
    desk = Desk()
    bad, good = desk.ask(), desk.ask()
    desk.runner.unbeginnable = {bad}
    desk.run_out()
    assert isinstance(desk.clients[bad].error, StepFailed)
    assert desk.num_tokens(good) == 8


def test_an_abort_overtakes_no_request_that_the_engine_has_not_taken_yet() -> None:
    inbox = Inbox(max_submits=10)
    command, _ = submit(make_request())
    late = Abort(request_id=command.requests[0].id)
    inbox.put(command)
    inbox.put(late)
    assert inbox.take_aborts(lambda request: False) == []
    assert inbox.take_all(timeout_s=0) == [command, late]
    inbox.put(late)
    assert inbox.take_aborts(lambda request: True) == [late]
    assert inbox.take_all(timeout_s=0) == []


def test_the_logprobs_of_every_token_are_told_once_and_with_its_text_at_the_earliest() -> None:
    client = Client()
    sequence = TextSequence(request=make_request(stop=("bx",), max_new_tokens=9), sink=client)
    told = [TokenLogprob(drawn=LikelyToken(token=n, text=t, logprob=-1.0), top=()) for n, t in enumerate("abc")]
    for logprob in told:
        text = logprob.drawn.text
        sequence.advance(StepToken(id=sequence.id, token=0, is_eos=False, text=text, logprob=logprob), now=0.0)
        if text == "b":  # which may begin the stop string
            assert len(client.events) == 1
    last = replace(told[0], drawn=replace(told[0].drawn, text=""))
    sequence.advance(StepToken(id=sequence.id, token=0, is_eos=True, text="", logprob=last), now=0.0)
    sequence.finish("stop", "", sequence.receipt(base=FINGERPRINT, now=0.0))
    texts = [event for event in client.events if isinstance(event, TextEvent)]
    assert [(event.text, event.logprobs) for event in texts] == [("a", (told[0],)), ("bc", (told[1], told[2]))]
    assert client.end.logprobs == (last,)


def test_tokens_are_counted_as_they_are_drawn_whatever_becomes_of_their_answer() -> None:
    """Those of answers that never ended were not, and a long answer was counted in one go."""
    desk = Desk()
    aborted, failed = desk.ask(max_new_tokens=100), desk.ask(max_new_tokens=100)
    desk.turns(5)
    assert desk.value("shira_tokens_total", kind="completion") == 10
    desk.abort(aborted)
    desk.turns(2)
    desk.runner.failures = [RuntimeError("shapes do not match")]
    desk.run_out()
    assert desk.num_tokens(failed) == 7
    assert desk.value("shira_tokens_total", kind="completion") == 12


def test_a_failed_step_fails_its_rows_and_no_others() -> None:
    desk = Desk(is_instant=False)
    failed, waiting = [desk.ask(), desk.ask()], desk.ask(A)
    desk.runner.failures = [RuntimeError("shapes do not match")]
    desk.turn()
    assert all(isinstance(desk.clients[request].error, StepFailed) for request in failed)
    desk.residency.waiting[A.key](LoadReport())
    desk.run_out()
    assert desk.num_tokens(waiting) == 8


def test_steps_and_rows_are_counted_by_how_they_ran() -> None:
    desk = Desk(costs=FREE_TO_MIX)
    desk.ask(A, max_new_tokens=3), desk.ask(B, max_new_tokens=3)
    desk.run_out()
    assert desk.value("shira_step_seconds_count", mode="mixed", phase="prefill") == 1
    assert desk.value("shira_step_seconds_count", mode="mixed", phase="decode") == 2
    assert desk.value("shira_rows_total", mode="mixed") == 6
