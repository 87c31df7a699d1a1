"""The engine thread: the only one that touches the weights. It takes commands, runs steps, sends events."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, assert_never

from server.core.errors import Aborted, DeadlineExceeded, Draining, EngineDied
from server.core.metrics import Metrics
from server.core.steps import LoadReport
from server.engine.chores import Chores
from server.engine.cost import CostModel
from server.engine.group import Group
from server.engine.inbox import Inbox
from server.engine.limits import Limits
from server.engine.live_requests import LiveRequests
from server.engine.messages import Abort, BlendLoaded, Command, Drain, FailEvent, Forget, Inspect, Submit, Verify
from server.engine.ports import Clock, Execution, Residency, Runner
from server.engine.scheduler import Scheduler
from server.engine.stepping import Stepper
from server.engine.telemetry import Telemetry

log = logging.getLogger(__name__)

SHORTEST_WAIT_S = 0.001


class EngineThread:
    """Start it once; it ends by a Drain, or dies when the weights can no longer be vouched for."""

    def __init__(
        self,
        *,
        execution: Execution,
        runner: Runner,
        residency: Residency,
        clock: Clock,
        metrics: Metrics,
        limits: Limits | None = None,
        costs: CostModel | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.ended = Future[None]()  # done when the thread has ended; with EngineDied, unless it was drained
        self.ended.set_running_or_notify_cancel()  # so that nobody who waits for it can cancel it
        self._execution = execution
        self._runner = runner
        self._residency = residency
        self._clock = clock
        self._inbox = Inbox(self.limits.max_queue)
        base = execution.active  # nothing is fused before the engine runs
        self._scheduler = Scheduler(self.limits, base=base, memory=runner, costs=costs)
        metrics.at_scrape(LiveRequests(metrics, self._scheduler, self._inbox, clock).publish)
        metrics.queue_limit.set(self.limits.max_queue)
        self._stepper = Stepper(
            scheduler=self._scheduler,
            execution=execution,
            runner=runner,
            residency=residency,
            clock=clock,
            telemetry=Telemetry(metrics),
            take_aborts=self._inbox.take_aborts,
        )
        self._chores = Chores(execution, is_used=self._scheduler.uses)
        self._drains: list[Drain] = []
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    # Any thread.

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Command) -> bool:
        """False if it was not taken: too many requests wait, or the thread has ended."""
        return self._inbox.put(command)

    @property
    def is_alive(self) -> bool:
        """False as soon as it takes no more commands."""
        return self._thread.is_alive() and not self._inbox.is_closed

    def retry_after_s(self) -> int:
        """An estimate."""
        return self._scheduler.retry_after_s()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    # The engine thread.

    def _run(self) -> None:
        try:
            while not self._is_drained:
                self._turn()
            self._chores.forget_unused()  # by now that is every version
            self._execution.restore()
        except Exception as died:
            log.exception("the engine thread died")
            error = EngineDied(f"the engine died: {died}")
            self._close(error)
            self.ended.set_exception(error)
        else:
            self._close(Draining("the server is stopping"))
            self.ended.set_result(None)

    def _turn(self) -> None:
        """Everything due now: commands, deadlines, loads, one step, some chores. Sleeps if there was nothing to run."""
        self._handle_commands(timeout_s=0)
        self._expire()
        self._load()
        has_run = self._stepper.step()
        self._chores.do_some()
        self._stepper.check_weights()
        if not has_run and not self._chores.is_busy and not self._is_drained:
            self._handle_commands(timeout_s=self._idle_s())

    @property
    def _is_drained(self) -> bool:
        if not self._drains or self._scheduler.sequences:
            return False
        return not self._chores.is_busy or self._clock.now() >= self._drain_deadline_s

    @property
    def _drain_deadline_s(self) -> float:
        return min((drain.deadline_s for drain in self._drains), default=math.inf)

    def _handle_commands(self, *, timeout_s: float | None) -> None:
        for command in self._inbox.take_all(timeout_s=timeout_s):
            self._handle(command)

    def _idle_s(self) -> float | None:
        """Until the next deadline; None if there is none."""
        due = min(self._scheduler.next_deadline(), self._drain_deadline_s)
        return None if due == math.inf else max(SHORTEST_WAIT_S, due - self._clock.now())

    def _handle(self, command: Command) -> None:
        match command:
            case Submit():
                self._stepper.submit(command)
            case Abort():
                sequence = self._scheduler.get(command.request_id)
                if sequence is not None:
                    self._stepper.fail([sequence], Aborted("the client went away"))
            case BlendLoaded():
                group = self._scheduler.loading(command.blend_key, command.load)
                if group is not None:
                    self._stepper.loaded(group, command.report)
            case Forget() | Verify() | Inspect() | Drain():
                if command.done.set_running_or_notify_cancel():
                    self._serve(command)
            case _:
                assert_never(command)

    def _serve(self, command: Forget | Verify | Inspect | Drain) -> None:
        match command:
            case Forget():
                self._chores.forget(command)
            case Verify():
                self._chores.verify(command)
            case Inspect():
                command.done.set_result(self._describe())
            case Drain():
                self._drains.append(command)
                self._scheduler.is_draining = True
            case _:
                assert_never(command)

    def _load(self) -> None:
        """Asks for bytes that are wanted, so that they come while others run."""
        self._stepper.give_way()
        for group in self._scheduler.to_load():
            self._residency.request(group.blend, self._tell_loaded(group))

    def _tell_loaded(self, group: Group) -> Callable[[LoadReport], None]:
        key, load = group.blend.key, group.load

        def on_done(report: LoadReport) -> None:
            self._inbox.put(BlendLoaded(blend_key=key, load=load, report=report))

        return on_done

    def _expire(self) -> None:
        now = self._clock.now()
        for sequence in self._scheduler.expired(now):
            self._stepper.fail([sequence], DeadlineExceeded(deadline_ms=sequence.request.deadline_ms))
        for sequence, error in self._scheduler.hopeless(now):
            self._stepper.refuse(sequence, error)
        if now >= self._drain_deadline_s:
            late = Draining("the server stopped before the request was done")
            self._stepper.fail(self._scheduler.sequences, late)

    def _describe(self) -> dict[str, Any]:
        return {
            "execution": self._execution.describe(),
            "runner": self._runner.describe(),
            "num_waiting": self._scheduler.num_waiting,
            "num_running": self._scheduler.num_running,
            "blends": [
                {
                    "blend_key": group.blend.key,
                    "versions": list(group.blend.versions),
                    "is_resident": group.is_ready,
                    "num_waiting": len(group.waiting),
                    "num_running": len(group.running),
                }
                for group in self._scheduler.groups
            ],
        }

    def _close(self, error: EngineDied | Draining) -> None:
        """Nobody is left waiting for a thread that has ended. A drained one holds nothing of any version."""
        for command in self._inbox.close():
            match command:
                case Submit():
                    for sink in command.sinks:
                        sink(FailEvent(error=error))
                case Drain():
                    self._drains.append(command)
                case Forget() if isinstance(error, Draining):
                    if command.done.set_running_or_notify_cancel():
                        command.done.set_result(None)
                case Forget() | Verify() | Inspect():
                    if command.done.set_running_or_notify_cancel():
                        command.done.set_exception(error)
                case Abort() | BlendLoaded():
                    pass
                case _:
                    assert_never(command)
        for sequence in self._scheduler.sequences:
            sequence.sink(FailEvent(error=error))
        self._chores.fail(error)
        for drain in self._drains:
            drain.done.set_result(None)
