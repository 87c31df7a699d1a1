from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from threading import Event as Flag
from typing import Any

import pytest

from server.core.errors import DeadlineExceeded, Draining, QueueFull
from server.core.metrics import Metrics
from server.engine.client import EngineClient
from server.engine.delivery import Delivery
from server.engine.limits import Limits
from server.engine.loop import EngineThread
from server.engine.messages import Event, FailEvent, FinishEvent, TextEvent
from tests.server.engine.fakes import FakeClock, FakeExecution, FakeResidency, FakeRunner, make_blend, make_request

A = make_blend("a")


class House:
    def __init__(self, **limits: Any) -> None:
        self.execution = FakeExecution()
        self.runner = FakeRunner(self.execution)
        self.residency = FakeResidency()
        clock = FakeClock()
        self.engine = EngineThread(
            execution=self.execution,
            runner=self.runner,
            residency=self.residency,
            clock=clock,
            metrics=Metrics(),
            limits=Limits(**limits),
        )
        self.client = EngineClient(self.engine, clock)

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        async def whole() -> None:
            self.engine.start()
            try:
                async with asyncio.timeout(20):
                    await story
            finally:
                if self.runner.gate is not None:
                    self.runner.gate.set()
                await self.client.drain(5.0)

        asyncio.run(whole())
        self.engine.join(10)
        assert not self.engine.is_alive


def test_events_arrive_in_order_and_the_last_one_ends_the_iterator() -> None:
    house = House()

    async def story() -> None:
        events = [event async for _, event in house.client.generate(make_request(A))]
        assert [event.text for event in events if isinstance(event, TextEvent)] == ["a", "b", "c"]
        assert isinstance(events[-1], FinishEvent)

    house.run(story())


def test_requests_asked_together_each_get_their_own_events_and_end() -> None:
    house = House()

    async def story() -> None:
        events = [event async for event in house.client.generate(*[make_request(A) for _ in range(3)])]
        for place in range(3):
            own = [event for at, event in events if at == place]
            assert [event.text for event in own if isinstance(event, TextEvent)] == ["a", "b", "c"]
            assert isinstance(own[-1], FinishEvent)

    house.run(story())


def test_requests_asked_together_are_all_taken_or_none() -> None:
    house = House(max_queue=3)
    house.runner.gate = Flag()

    async def story() -> None:
        assert house.runner.gate is not None
        with pytest.raises(QueueFull):
            await anext(house.client.generate(*[make_request(A) for _ in range(4)]))
        ask = house.client.generate(*[make_request(A) for _ in range(3)])
        first = asyncio.ensure_future(anext(ask))
        house.runner.gate.set()
        await first
        await ask.aclose()
        await house.client.inspect()  # handled after the aborts
        assert house.runner.live == {}
        assert house.residency.held == []

    house.run(story())


def test_closing_the_iterator_aborts_the_request() -> None:
    house = House()
    house.runner.script = "x" * 100_000

    async def story() -> None:
        events = house.client.generate(make_request(A, max_new_tokens=100_000))
        await anext(events)
        await events.aclose()
        await house.client.inspect()  # handled after the abort
        assert house.runner.live == {}
        assert house.residency.held == []

    house.run(story())


def test_a_deadline_is_kept_while_a_long_step_holds_the_engine_up() -> None:
    house = House()
    house.runner.gate = Flag()

    async def story() -> None:
        request = make_request(A, deadline_s=100.2)  # the fake clock stands at 100
        events = [event async for _, event in house.client.generate(request)]
        assert [type(event.error) for event in events if isinstance(event, FailEvent)] == [DeadlineExceeded]
        assert house.runner.gate is not None
        assert not house.runner.gate.is_set()
        house.runner.gate.set()
        await house.client.inspect()  # handled after the abort
        assert house.runner.live == {}

    house.run(story())


def test_a_full_queue_raises_before_the_first_event() -> None:
    house = House(max_queue=1)
    house.runner.gate = Flag()

    async def story() -> None:
        asked = [house.client.generate(make_request(make_blend(name))) for name in "abcd"]
        tasks = [asyncio.ensure_future(anext(ask)) for ask in asked]
        done, _ = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        refused = [task.exception() for task in done]
        assert any(isinstance(error, QueueFull) and error.retry_after_s >= 1 for error in refused)
        assert house.runner.gate is not None
        house.runner.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ask in asked:
            await ask.aclose()

    house.run(story())


def test_after_a_drain_nothing_is_taken() -> None:
    house = House()

    async def story() -> None:
        await asyncio.gather(house.client.drain(5.0), house.client.drain(6.0))
        assert house.client.is_draining
        assert not house.engine.is_alive
        with pytest.raises(Draining):
            await anext(house.client.generate(make_request()))
        with pytest.raises(Draining):
            await house.client.inspect()
        await house.client.forget(A.versions[0])  # a drained engine holds nothing: a delete need not fail

    house.run(story())


def test_an_audit_that_nobody_waits_for_any_more_stops_nothing() -> None:
    house = House()
    house.execution.num_slices = 1000

    async def story() -> None:
        audit = asyncio.ensure_future(house.client.verify())
        await asyncio.sleep(0)
        audit.cancel()
        assert [event async for event in house.client.generate(make_request())]
        assert (await house.client.verify()).ok
        await house.client.forget(A.versions[0])
        assert house.execution.forgotten == ["a"]

    house.run(story())


def test_the_event_loop_is_woken_once_for_all_events_of_a_step() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        calls: list[Callable[[], None]] = []
        delivery = Delivery(loop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", calls.append)
            got: list[Event] = []
            events = [TextEvent(text=str(number)) for number in range(32)]
            for event in events:
                delivery.send(got.append, event)
            assert len(calls) == 1
            calls.pop()()
            assert got == events
            delivery.send(got.append, events[0])
            assert len(calls) == 1

    asyncio.run(story())


def test_events_for_a_loop_that_has_closed_are_dropped() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Delivery(loop).send(lambda event: None, TextEvent(text="late"))
