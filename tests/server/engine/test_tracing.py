"""What the engine tells of a traced request."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from adapters_store.blend import BASE
from server.core.requests import GenerationRequest
from server.core.steps import Reused, SwitchReport
from server.core.tracing import Phase
from server.engine.course import MAX_WAITS, switch_phase
from server.engine.messages import Abort
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend, make_request, submit
from tests.server.engine.painter import FakePainter, make_image_request

A, B, C = make_blend("a"), make_blend("b"), make_blend("c")
BLENDS = (BASE, A, B, C)


@dataclass(eq=False)
class Recorded:
    phases: list[Phase] = field(default_factory=list)
    is_recorded: bool = True

    def add(self, *phases: Phase) -> None:
        self.phases += phases

    @property
    def names(self) -> list[str]:
        return [phase.name for phase in self.phases]

    @property
    def waits(self) -> list[Phase]:
        return [part for phase in self.phases for part in phase.parts]

    @property
    def moments(self) -> list[str]:
        return [moment.name for phase in self.phases for moment in phase.moments]


def ask(desk: Desk, request: GenerationRequest, *, is_recorded: bool = True) -> Recorded:
    trace = Recorded(is_recorded=is_recorded)
    command, desk.clients[request.id] = submit(
        replace(request, trace=trace, arrived_s=desk.clock.now() - 0.01, admitted_s=desk.clock.now())
    )
    desk.stepper.submit(command)
    desk.clock.seconds += 0.005  # a switch takes time, which does not pass by itself here
    return trace


TOOK = Phase(name="load", started_s=99.0, ended_s=100.5, parts=(Phase(name="fetch", started_s=99.5, ended_s=100.5),))


def assert_is_whole(trace: Recorded, *, from_s: float, to_s: float) -> None:
    """The phases follow each other without gap or overlap; what was waited for lies in them, one after the other."""
    assert trace.phases[0].started_s == from_s
    assert trace.phases[-1].ended_s == pytest.approx(to_s)
    for phase, after in pairwise(trace.phases):
        assert phase.ended_s == after.started_s
    for phase in trace.phases:
        for part in phase.parts:
            assert phase.started_s <= part.started_s < part.ended_s <= phase.ended_s
        for moment in phase.moments:
            assert phase.started_s <= moment.at_s <= phase.ended_s


def test_every_moment_of_a_request_belongs_to_one_phase_whatever_runs_beside() -> None:
    desk = Desk(max_kv_tokens=60, max_batch=3, headroom_tokens=4, patience_steps=6, turn_steps=3)
    asked = []
    for number in range(24):
        request = make_request(BLENDS[number % 4], num_prompt_tokens=4 + number % 5, max_new_tokens=3 + number)
        asked.append((request, desk.clock.now(), ask(desk, request)))
        desk.turn()
    while desk.scheduler.sequences:
        desk.turn()
    assert any("parked" in trace.moments for _, _, trace in asked)
    for request, asked_s, trace in asked:
        receipt = desk.clients[request.id].end.receipt
        assert trace.names == ["queue", "prefill", "decode"]
        assert_is_whole(trace, from_s=asked_s, to_s=asked_s - 0.01 + receipt.total_ms / 1e3)
        switches = sum(wait.ended_s - wait.started_s for wait in trace.waits if wait.name == "switch")
        assert switches * 1e3 == pytest.approx(receipt.switch_ms)
        assert trace.moments.count("parked") == trace.moments.count("resumed")


def test_steps_and_tokens_are_counted_not_listed() -> None:
    desk = Desk(max_batch=2, max_step_tokens=100)
    desk.ask(max_new_tokens=100)
    desk.turn()
    desk.runner.reused = Reused(num_tokens=5)
    trace = ask(desk, make_request(num_prompt_tokens=300, max_new_tokens=7))
    desk.run_out()
    _, prefill, decode = trace.phases
    assert prefill.attributes == {"shira.steps": 3, "shira.tokens": 300, "shira.reused_tokens": 5}
    assert decode.attributes == {"shira.steps": 6, "shira.tokens": 6}


def test_one_switch_for_many_requests_is_one_piece_of_work_that_knows_them_all() -> None:
    desk = Desk()
    traces = [ask(desk, make_request(A, max_new_tokens=2)) for _ in range(3)]
    unrecorded = ask(desk, make_request(A, max_new_tokens=2), is_recorded=False)
    desk.run_out()
    works = {wait.shared for trace in traces for wait in trace.waits if wait.name == "switch"}
    [work] = works
    assert work is not None
    assert list(work.served) == traces
    assert unrecorded.phases == []


def test_a_request_waits_for_a_load_no_longer_than_it_was_there() -> None:
    desk = Desk()
    desk.residency.took = TOOK
    trace = ask(desk, make_request(A, max_new_tokens=2))
    desk.clock.seconds = 101.0
    desk.run_out()
    load = next(wait for wait in trace.waits if wait.name == "load")
    assert (load.started_s, load.ended_s) == (100.0, 100.5)
    assert load.attributes["shira.fetch_ms"] == pytest.approx(1000)
    assert load.shared is not None
    assert load.shared.phase.started_s == 99.0


def test_a_request_that_goes_away_tells_how_far_it_came() -> None:
    desk = Desk()
    waiting, running = make_request(B), make_request(A, max_new_tokens=100)
    traces = [ask(desk, running)]
    desk.turns(5)
    traces.append(ask(desk, waiting))
    for request in (running, waiting):
        sequence = desk.scheduler.get(Abort(request_id=request.id).request_id)
        assert sequence is not None
        desk.stepper.fail([sequence], RuntimeError("gone"))
    assert [trace.names for trace in traces] == [["queue", "prefill", "decode"], ["queue"]]
    assert [trace.phases[-1].attributes["error.type"] for trace in traces] == ["RuntimeError"] * 2


def test_a_picture_has_one_phase_for_all_its_steps() -> None:
    desk = Desk(painter=FakePainter(switch_s=0.002), schedule="fused", quantum_steps=1)
    trace = ask(desk, make_image_request(A, num_steps=5))
    desk.run_out()
    assert trace.names == ["queue", "denoise"]
    denoise = trace.phases[1]
    assert denoise.attributes == {"shira.steps": 5, "shira.switch_ms": pytest.approx(1 + 5 * 2)}


def test_pictures_that_take_turns_tell_of_so_many_switches_and_count_the_rest() -> None:
    desk = Desk(painter=FakePainter(), schedule="fused", quantum_steps=1)
    traces = [ask(desk, make_image_request(blend, num_steps=50)) for blend in (A, B)]
    desk.run_out()
    for trace in traces:
        assert len(trace.waits) == MAX_WAITS
        assert trace.phases[-1].attributes["shira.untold_waits"] == 50 - MAX_WAITS


def test_the_parts_of_a_switch_are_as_long_as_the_report_says_and_in_their_order() -> None:
    report = SwitchReport(kind="exchange", tier="host", restore_s=0.25, stage_s=1.0, exchange_s=0.5, total_s=2.0)
    switch = switch_phase(A, report, 10.0)
    told = [(part.name, part.started_s, part.ended_s) for part in switch.parts]
    assert told == [("restore", 8.0, 8.25), ("stage", 8.25, 9.25), ("exchange", 9.25, 9.75)]
    assert (switch.started_s, switch.ended_s) == (8.0, 10.0)


def test_of_an_untraced_request_nothing_is_kept() -> None:
    desk = Desk()
    desk.ask(A)
    desk.turn()
    [sequence] = desk.scheduler.sequences
    assert sequence.course is None
