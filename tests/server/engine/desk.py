"""The engine without its thread: turns are taken when told, and every one is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters_store.blend import BASE, Blend, BlendKey
from server.core.errors import Aborted, DeadlineExceeded
from server.core.metrics import Metrics
from server.core.requests import RequestId, TextRequest
from server.core.steps import LoadReport
from server.engine.cost import CostModel
from server.engine.limits import Limits
from server.engine.messages import Abort
from server.engine.scheduler import Scheduler
from server.engine.stepping import Stepper
from server.engine.telemetry import Telemetry
from tests.server.engine.fakes import (
    Client,
    FakeClock,
    FakeExecution,
    FakeResidency,
    FakeRunner,
    make_request,
    submit,
)
from tests.server.engine.painter import FakePainter, make_image_request

WORDS = tuple(f"{number} " for number in range(10_000))  # no two tokens have the same text


class Desk:
    def __init__(
        self,
        *,
        costs: CostModel | None = None,
        max_kv_tokens: int = 1_000_000,
        is_instant: bool = True,
        painter: FakePainter | None = None,
        **limits: Any,
    ) -> None:
        """With a ``painter`` it draws, and takes no texts."""
        self.limits = Limits(**limits)
        self.clock = FakeClock()
        self.execution = FakeExecution()
        self.runner = FakeRunner(
            self.execution,
            script=WORDS,
            max_kv_tokens=max_kv_tokens,
            max_sequence_tokens=min(max_kv_tokens, 200_000),
            on_step=self._on_step,
        )
        self.residency = FakeResidency(is_instant=is_instant)
        self.metrics = Metrics()
        if painter is not None:
            painter.on_step = self._on_step
        runner = painter or self.runner
        self.scheduler = Scheduler(self.limits, base=BASE, memory=runner, costs=costs)
        self.stepper = Stepper(
            scheduler=self.scheduler,
            execution=self.execution,
            runner=runner,
            residency=self.residency,
            clock=self.clock,
            telemetry=Telemetry(self.metrics),
            take_aborts=self._take_aborts,
        )
        self.asked: dict[RequestId, TextRequest] = {}
        self.clients: dict[RequestId, Client] = {}
        self.step_s = 0.01
        self.late_aborts: list[RequestId] = []  # arrive while the next step runs
        self._aborts: list[RequestId] = []
        self._loaded: list[tuple[BlendKey, int, LoadReport]] = []

    def ask(self, blend: Blend = BASE, **wishes: Any) -> RequestId:
        request = make_request(blend, arrived_s=self.clock.now(), **wishes)
        command, client = submit(request)
        self.asked[request.id] = request
        self.clients[request.id] = client
        self.stepper.submit(command)
        return request.id

    def ask_image(self, blend: Blend = BASE, **wishes: Any) -> RequestId:
        request = make_image_request(blend, arrived_s=self.clock.now(), **wishes)
        command, self.clients[request.id] = submit(request)
        self.stepper.submit(command)
        return request.id

    def turn(self) -> bool:
        """As a turn of the thread; False if nothing could run."""
        loaded, self._loaded = self._loaded, []
        for key, load, report in loaded:
            group = self.scheduler.loading(key, load)
            if group is not None:
                self.stepper.loaded(group, report)
        now = self.clock.now()
        for sequence in self.scheduler.expired(now):
            self.stepper.fail([sequence], DeadlineExceeded(deadline_ms=sequence.request.deadline_ms))
        for sequence, error in self.scheduler.hopeless(now):
            self.stepper.refuse(sequence, error)
        self.stepper.give_way()
        for group in self.scheduler.to_load():
            self.residency.request(group.blend, self._tell_loaded(group.blend.key, group.load))
        return self.stepper.step()

    def turns(self, num: int) -> None:
        for _ in range(num):
            self.turn()

    def run_out(self, max_turns: int = 10_000) -> None:
        """Until every request has ended."""
        for _ in range(max_turns):
            if not self.scheduler.sequences:
                return
            self.turn()
        raise AssertionError(f"{len(self.scheduler.sequences)} requests never ended")

    def abort(self, request: RequestId) -> None:
        sequence = self.scheduler.get(request)
        if sequence is not None:
            self.stepper.fail([sequence], Aborted("the client went away"))

    def num_tokens(self, request: RequestId) -> int:
        """That were sent."""
        return len(self.clients[request].text.split())

    def last_step(self) -> tuple[BlendKey, dict[RequestId, int]]:
        key, work = self.runner.steps[-1]
        return key, {item.id: item.num_tokens for item in work}

    def value(self, name: str, **labels: str) -> float | None:
        value: float | None = self.metrics.registry.get_sample_value(name, labels)
        return value

    def _tell_loaded(self, key: BlendKey, load: int) -> Callable[[LoadReport], None]:
        return lambda report: self._loaded.append((key, load, report))

    def _on_step(self) -> None:
        self.clock.seconds += self.step_s
        self._aborts += self.late_aborts
        self.late_aborts.clear()

    def _take_aborts(self, is_live: Callable[[RequestId], bool]) -> list[Abort]:
        taken, self._aborts = self._aborts, []
        return [Abort(request_id=request) for request in taken if is_live(request)]
