"""The real thread over fakes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Any

import pytest

from adapters_store.blend import BASE, Blend
from adapters_store.errors import AdapterUnavailable, BlendRejected
from server.core.errors import (
    Aborted,
    DeadlineExceeded,
    Draining,
    EngineDied,
    OutOfMemory,
    RequestRejected,
    StepFailed,
    SwitchFailed,
)
from server.core.metrics import Metrics
from server.core.steps import LoadReport, SwitchReport, VerifyReport
from server.engine.limits import Limits
from server.engine.loop import EngineThread
from server.engine.messages import Abort, Drain, Forget, Inspect, Verify
from tests.server.engine.fakes import (
    FINGERPRINT,
    Client,
    FakeClock,
    FakeExecution,
    FakeResidency,
    FakeRunner,
    make_blend,
    make_request,
    submit,
)

A, B = make_blend("a"), make_blend("b")


@dataclass
class House:
    execution: FakeExecution = field(default_factory=FakeExecution)
    residency: FakeResidency = field(default_factory=FakeResidency)
    clock: FakeClock = field(default_factory=FakeClock)
    metrics: Metrics = field(default_factory=Metrics)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.runner = FakeRunner(self.execution)
        self.engine = EngineThread(
            execution=self.execution,
            runner=self.runner,
            residency=self.residency,
            clock=self.clock,
            metrics=self.metrics,
            limits=self.limits,
        )

    def ask(self, blend: Blend = BASE, **wishes: Any) -> Client:
        command, client = submit(make_request(blend, **wishes))
        assert self.engine.post(command)
        return client

    def value(self, name: str, **labels: str) -> float | None:
        value: float | None = self.metrics.registry.get_sample_value(name, labels)
        return value


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.engine.start()
    yield house
    if house.runner.gate is not None:
        house.runner.gate.set()
    house.engine.post(Drain(deadline_s=0.0, done=Future()))
    house.engine.join(10)
    assert not house.engine.is_alive


def test_an_answer_ends_with_a_receipt_of_what_was_applied(house: House) -> None:
    client = house.ask(A)
    end = client.end
    assert client.text == "abc"
    assert end.finish_reason == "stop"
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (2, 4)
    receipt = end.receipt
    assert (receipt.base, receipt.blend_key, receipt.mode) == (FINGERPRINT, A.key, "fused")
    assert [adapter.version for adapter in receipt.adapters] == ["a"]
    assert receipt.switch_ms == pytest.approx(1.0)


def test_an_answer_stops_at_its_length(house: House) -> None:
    client = house.ask(max_new_tokens=2)
    assert client.end.finish_reason == "length"
    assert client.text == "ab"


def test_end_of_text_is_passed_over_when_asked(house: House) -> None:
    client = house.ask(max_new_tokens=6, ignore_eos=True)
    house.runner.script = "abcdefghij"
    assert client.end.finish_reason == "length"
    assert client.end.usage.completion_tokens == 6


def test_a_stop_string_ends_the_answer(house: House) -> None:
    client = house.ask(stop=("bc",))
    assert client.end.finish_reason == "stop"
    assert client.text == "a"


def test_a_stop_string_is_found_in_text_held_back_to_the_end(house: House) -> None:
    house.runner.held_text = "tail"
    client = house.ask(max_new_tokens=2, stop=("ta",))
    assert client.end.finish_reason == "stop"
    assert client.text == "ab"


def test_nobody_runs_before_the_bytes_are_there_and_others_do_meanwhile(house: House) -> None:
    house.residency.is_instant = False
    slow, quick = house.ask(A), house.ask()
    assert quick.end.finish_reason == "stop"
    assert not slow.events
    house.residency.waiting[A.key](LoadReport())
    assert slow.end.finish_reason == "stop"


def test_bytes_that_cannot_be_had_fail_the_requests_that_need_them_and_no_others(house: House) -> None:
    house.residency.is_instant = False
    first, second = house.ask(A), house.ask(A)
    other = house.ask(B)
    assert house.residency.requested.wait(10)
    assert house.ask().end
    house.residency.waiting[A.key](LoadReport(error=AdapterUnavailable("a", reason="gone")))
    assert isinstance(first.error, AdapterUnavailable)
    assert isinstance(second.error, AdapterUnavailable)
    house.residency.waiting[B.key](LoadReport())
    assert other.end
    assert settle(house)["blends"] == []
    assert house.residency.held == []


def test_who_waits_for_room_is_served_once_a_request_that_held_it_could_not_begin() -> None:
    """The room came free between two looks at who wants it, and the thread slept until the next deadline."""
    house = House(residency=FakeResidency(room=1))
    held = make_request(A)
    house.runner.unbeginnable.add(held.id)
    command, holder = submit(held)
    assert house.engine.post(command)
    waiting = house.ask(B)
    drained: Future[None] = Future()
    assert house.engine.post(Drain(deadline_s=house.clock.now() + 1000, done=drained))
    house.engine.start()
    assert isinstance(holder.error, StepFailed)
    assert waiting.end.finish_reason == "stop"
    drained.result(10)


def test_a_failed_step_fails_its_requests_alone_and_brings_the_base_back(house: House) -> None:
    house.runner.failures = [RuntimeError("shapes do not match")]
    failed = house.ask(A)
    assert isinstance(failed.error, StepFailed)
    assert house.execution.active.is_base
    assert house.runner.live == {}
    assert house.ask(A).end.finish_reason == "stop"


def test_a_failed_switch_fails_its_requests_and_the_next_one_works(house: House) -> None:
    house.execution.failures = [SwitchFailed("no")]
    assert isinstance(house.ask(A).error, SwitchFailed)
    assert house.ask(A).end.receipt.blend_key == A.key


@pytest.mark.parametrize(
    ("part", "call"), [("execution", "survey"), ("execution", "activate"), ("runner", "begin"), ("runner", "step")]
)
@pytest.mark.parametrize("refusal", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate …")], ids=repr)
def test_a_lack_of_memory_is_told_as_what_it_is_wherever_it_shows(
    house: House, monkeypatch: pytest.MonkeyPatch, part: str, call: str, refusal: Exception
) -> None:
    def refuse(*_: object) -> object:
        raise refusal

    with monkeypatch.context() as without_memory:
        without_memory.setattr(getattr(house, part), call, refuse)
        assert isinstance(house.ask(A).error, OutOfMemory)
        settle(house)
    assert house.ask(A).end.finish_reason == "stop"


def test_a_switch_that_failed_for_want_of_memory_is_told_so(house: House) -> None:
    house.execution.failures = [came_of(SwitchFailed("the blend could not be staged: "), MemoryError())]
    assert isinstance(house.ask(A).error, OutOfMemory)


def came_of(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_a_blend_that_cannot_be_made_is_refused_with_its_reason(house: House) -> None:
    house.execution.failures = [BlendRejected("out of range")]
    assert str(house.ask(A).error) == "out of range"


def test_no_answer_is_given_under_another_blend_than_the_one_asked_for(house: House) -> None:
    house.execution.lies = True
    client = house.ask(A)
    assert isinstance(client.error, SwitchFailed)
    assert client.text == ""
    assert house.runner.steps == []


def test_weights_that_cannot_be_vouched_for_end_the_engine(house: House) -> None:
    house.execution.failures = [SwitchFailed("no")]
    house.execution.broken = "lost"
    assert isinstance(house.ask(A).error, SwitchFailed | EngineDied)
    assert isinstance(house.engine.ended.exception(timeout=10), EngineDied)
    assert not house.engine.is_alive
    command, _ = submit(make_request())
    assert not house.engine.post(command)


def test_a_drain_and_a_forgetting_that_come_while_the_thread_ends_are_done_with_it(house: House) -> None:
    first, second, forgotten = Future[None](), Future[None](), Future[None]()
    restore = house.execution.restore

    def restored() -> SwitchReport:
        assert house.engine.post(Drain(deadline_s=house.clock.now() + 60, done=second))
        assert house.engine.post(Forget(version=A.versions[0], done=forgotten))
        return restore()

    house.execution.restore = restored  # type: ignore[method-assign]
    house.engine.post(Drain(deadline_s=house.clock.now() + 60, done=first))
    first.result(timeout=10)
    second.result(timeout=10)
    forgotten.result(timeout=10)
    house.engine.ended.result(timeout=10)


def test_a_version_whose_last_request_goes_away_in_a_drain_is_forgotten(house: House) -> None:
    """Nothing was left to run, so the thread ended, and told the delete that the server is stopping."""
    house.residency.is_instant = False
    request = make_request(A)
    command, client = submit(request)
    forgotten, drained = Future[None](), Future[None]()
    house.engine.post(command)
    house.engine.post(Forget(version=A.versions[0], done=forgotten))
    house.engine.post(Drain(deadline_s=house.clock.now() + 1000, done=drained))
    assert house.residency.requested.wait(10)
    house.engine.post(Abort(request_id=request.id))
    drained.result(10)
    forgotten.result(10)
    assert isinstance(client.error, Aborted)
    assert house.execution.forgotten == ["a"]


def test_a_deadline_ends_a_request_that_waits(house: House) -> None:
    house.residency.is_instant = False
    client = house.ask(A, deadline_s=100.25)
    assert house.residency.requested.wait(10)
    house.clock.seconds = 100.3
    settle(house)
    assert isinstance(client.error, DeadlineExceeded)
    assert "250 ms" in str(client.error)
    house.residency.waiting[A.key](LoadReport())
    assert settle(house)["blends"] == []


def test_an_aborted_request_gives_its_memory_back(house: House) -> None:
    house.runner.gate = Flag()
    request = make_request(A, max_new_tokens=1000, ignore_eos=True)
    house.runner.script = "x" * 2000
    command, client = submit(request)
    house.engine.post(command)
    house.engine.post(Abort(request_id=request.id))
    house.runner.gate.set()
    assert client.over.wait(10)
    settle(house)
    assert house.runner.live == {}
    assert house.residency.held == []


def test_a_request_too_large_for_the_memory_is_refused(house: House) -> None:
    assert isinstance(house.ask(max_new_tokens=200_000).error, RequestRejected)


def test_an_audit_runs_between_steps_and_when_nothing_else_does(house: House) -> None:
    done: Future[VerifyReport] = Future()
    house.engine.post(Verify(done=done))
    assert done.result(10).ok


def test_a_version_is_forgotten_when_its_last_request_has_ended(house: House) -> None:
    house.runner.gate = Flag()
    client = house.ask(A)
    done: Future[None] = Future()
    house.engine.post(Forget(version=A.versions[0], done=done))
    assert not done.done()
    house.runner.gate.set()
    done.result(10)
    assert client.over.is_set()
    assert house.execution.forgotten == ["a"]


def test_a_question_whose_asker_has_gone_does_no_harm(house: House) -> None:
    done: Future[VerifyReport] = Future()
    done.cancel()
    house.engine.post(Verify(done=done))
    assert house.ask().end


def test_draining_finishes_what_was_accepted_and_refuses_the_rest(house: House) -> None:
    house.runner.gate = Flag()
    accepted = house.ask(A)
    done: Future[None] = Future()
    house.engine.post(Drain(deadline_s=1000.0, done=done))
    late = house.ask()
    house.runner.gate.set()
    done.result(10)
    assert accepted.end.finish_reason == "stop"
    assert isinstance(late.error, Draining)
    assert house.execution.active.is_base


def test_a_drain_past_its_deadline_fails_what_is_left(house: House) -> None:
    house.residency.is_instant = False
    client = house.ask(A)
    done: Future[None] = Future()
    house.engine.post(Drain(deadline_s=99.0, done=done))
    done.result(10)
    assert isinstance(client.error, Draining)


def test_an_audit_under_way_is_finished_before_the_end(house: House) -> None:
    house.runner.gate = Flag()
    house.ask(A)
    audit: Future[VerifyReport] = Future()
    drained: Future[None] = Future()
    assert house.engine.post(Verify(done=audit))
    assert house.engine.post(Drain(deadline_s=house.clock.now() + 1000, done=drained))
    house.execution.num_slices = 50
    house.runner.gate.set()
    drained.result(10)
    assert audit.result(10).ok


def test_the_metrics_tell_what_was_done(house: House) -> None:
    assert house.ask(A).end
    settle(house)
    assert house.value("shira_tokens_total", kind="completion") == 4
    assert house.value("shira_tokens_total", kind="prompt") == 2
    assert house.value("shira_queue_seconds_count") == 1
    assert house.value("shira_time_to_first_token_seconds_count") == 1
    assert house.value("shira_time_per_output_token_seconds_count") == 1
    assert house.value("shira_step_seconds_count", mode="fused", phase="prefill") == 1
    assert house.value("shira_step_seconds_count", mode="fused", phase="decode") == 3
    assert house.value("shira_queue_depth") == 0


def settle(house: House) -> dict[str, Any]:
    """Returns once every command posted before it was handled."""
    done: Future[dict[str, Any]] = Future()
    assert house.engine.post(Inspect(done=done))
    return done.result(10)


def test_the_gateway_gauge_is_left_to_those_who_publish_it(house: House) -> None:
    """Set from two threads, it showed two series with different labels."""
    assert house.ask(A).end
    assert house.metrics.lora_requests_info.collect()[0].samples == []


def test_requests_that_end_in_one_step_leave_the_runner_together(house: House) -> None:
    """One by one, each moved the KV of all that were still there."""
    house.runner.gate = Flag()
    settle(house)
    clients = [house.ask(A) for _ in range(3)]
    house.runner.gate.set()
    for client in clients:
        assert client.end
    settle(house)
    assert sum(len(drop) for drop in house.runner.drops) == 3
    assert len(house.runner.drops) < 3
