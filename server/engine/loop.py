"""The engine thread: the only one that touches the weights. It takes commands, runs steps, sends events."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any, assert_never

from adapters_store.errors import AdapterStoreError
from server.core.errors import Aborted, DeadlineExceeded, Draining, EngineDied, ServerError, StepFailed, SwitchFailed
from server.core.metrics import Metrics
from server.core.requests import FinishReason
from server.core.steps import StepToken, VerifyReport
from server.engine.inbox import Inbox
from server.engine.messages import (
    Abort,
    BlendLoaded,
    Command,
    Drain,
    FailEvent,
    Forget,
    Inspect,
    Submit,
    Verify,
)
from server.engine.ports import Clock, Execution, Residency, Runner
from server.engine.scheduler import Limits, Plan, Scheduler
from server.engine.sequence import Sequence
from server.engine.telemetry import Telemetry

if TYPE_CHECKING:
    from adapters_store.blend import Blend

log = logging.getLogger(__name__)


class EngineThread:
    """Start it once; it ends by a Drain, or dies if the base can no longer be vouched for."""

    def __init__(
        self,
        *,
        execution: Execution,
        runner: Runner,
        residency: Residency,
        clock: Clock,
        metrics: Metrics,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._execution = execution
        self._runner = runner
        self._residency = residency
        self._clock = clock
        self._telemetry = Telemetry(metrics, execution.mode)
        self._inbox = Inbox(self._limits.max_queue)
        self._scheduler = Scheduler(self._limits, fits=runner.fits, can_admit=runner.can_admit)
        self._audits: list[tuple[Iterator[VerifyReport | None], Future[VerifyReport]]] = []
        self._forgets: list[Forget] = []
        self._drain: Drain | None = None
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, command: Command) -> bool:
        """Any thread. False if it was not taken: the queue is full, or the thread has ended."""
        return self._inbox.put(command)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def limits(self) -> Limits:
        return self._limits

    def retry_after_s(self) -> int:
        """Any thread; an estimate."""
        return self._scheduler.retry_after_s()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        error: Exception = EngineDied("the engine has stopped")
        try:
            while not self._is_drained():
                self._turn()
            self._execution.restore()
        except Exception as died:
            log.exception("the engine thread died")
            error = EngineDied(f"the engine died: {died}")
        finally:
            self._close(error)

    def _turn(self) -> None:
        """Everything due now: commands, deadlines, one step, one slice of an audit."""
        self._handle_commands(wait=False)
        self._expire()
        plan = self._scheduler.plan()
        if plan is not None:
            self._step(plan)
        self._continue_audit()
        self._forget_unused()
        if plan is None and not self._audits and not self._is_drained():
            self._handle_commands(wait=True)

    # Commands.

    def _handle_commands(self, *, wait: bool) -> None:
        for command in self._inbox.take_all(timeout_s=self._idle_s() if wait else 0):
            self._handle(command)

    def _idle_s(self) -> float | None:
        """Until the next deadline; None if there is none."""
        due = min(self._scheduler.next_deadline(), self._drain.deadline_s if self._drain else math.inf)
        return None if due == math.inf else max(0.001, due - self._clock.now())

    def _handle(self, command: Command) -> None:
        match command:
            case Submit():
                self._submit(command)
            case Abort():
                sequence = self._scheduler.get(command.request_id)
                if sequence is not None:
                    self._fail([sequence], Aborted("the client went away"))
            case BlendLoaded(blend_key=key, error=error):
                if error is None:
                    self._scheduler.loaded(key)
                else:
                    self._fail(self._scheduler.of_blend(key), error)
            case Forget():
                self._forgets.append(command)
            case Verify():
                self._audits.append((self._execution.verify(), command.done))
            case Inspect():
                command.done.set_result(self._describe())
            case Drain():
                self._drain = command
                self._scheduler.is_draining = True
            case _:
                assert_never(command)

    def _submit(self, command: Submit) -> None:
        sequence = Sequence(request=command.request, sink=command.sink)
        refusal = self._scheduler.refusal(sequence.new)
        if refusal is not None:
            command.sink(FailEvent(error=refusal))
            return
        blend = self._scheduler.add(sequence)
        if blend is not None:
            self._residency.request(blend, self._tell_loaded(blend))
        self._telemetry.queued(self._scheduler)

    def _tell_loaded(self, blend: Blend) -> Callable[[Exception | None], None]:
        def on_done(error: Exception | None) -> None:
            self._inbox.put(BlendLoaded(blend_key=blend.key, error=error))

        return on_done

    def _expire(self) -> None:
        now = self._clock.now()
        for sequence in self._scheduler.expired(now):
            deadline_ms = round((sequence.deadline_s - sequence.request.arrived_s) * 1e3)
            self._fail([sequence], DeadlineExceeded(deadline_ms=deadline_ms))
        if self._drain is not None and now >= self._drain.deadline_s:
            self._fail(self._scheduler.sequences, Draining("the server stopped before the request was done"))

    def _describe(self) -> dict[str, Any]:
        return {
            "execution": self._execution.describe(),
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

    # One step.

    def _step(self, plan: Plan) -> None:
        if not self._activate(plan):
            return
        now = self._clock.now()
        for sequence in plan.starting:
            sequence.started_s = now
        self._telemetry.started(plan.starting, now)
        try:
            tokens = self._run_model(plan)
        except Exception as error:
            log.exception("a step failed")
            self._fail(plan.sequences, StepFailed(f"the model failed while it ran this request: {error}"))
            self._restore_after_failure()
            return
        self._advance(plan, tokens)

    def _activate(self, plan: Plan) -> bool:
        """True if the weights hold the plan's blend now; else its requests have failed."""
        try:
            report = self._execution.activate(plan.blend)
        except AdapterStoreError as error:
            self._fail(self._scheduler.of_blend(plan.blend.key), error)
            return False
        except Exception as error:
            log.exception("a switch failed")
            failed = error if isinstance(error, ServerError) else SwitchFailed(f"the switch failed: {error}")
            self._fail(plan.sequences, failed)
            self._stop_if_broken()
            return False
        for sequence in plan.sequences:
            sequence.switch_s += report.total_s
        if self._execution.active.key != plan.blend.key:
            problem = f"the weights hold {self._execution.active.key} where {plan.blend.key} was asked for"
            self._fail(plan.sequences, SwitchFailed(problem))
            return False
        return True

    def _run_model(self, plan: Plan) -> list[StepToken]:
        key = plan.blend.key
        tokens: list[StepToken] = []
        if plan.running:
            with self._telemetry.step("decode"):
                tokens += self._runner.decode(key, [sequence.id for sequence in plan.running])
        if plan.starting:
            with self._telemetry.step("prefill"):
                tokens += self._runner.prefill(key, [sequence.new for sequence in plan.starting])
        return tokens

    def _advance(self, plan: Plan, tokens: list[StepToken]) -> None:
        now = self._clock.now()
        running = {sequence.id: sequence for sequence in plan.sequences}
        for token in tokens:
            sequence = running[token.id]
            finish_reason = sequence.advance(token, now)
            if finish_reason is not None:
                self._finish(sequence, finish_reason, now)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        execution = self._execution
        sequence.finish(
            reason,
            self._runner.finish_text(sequence.id),
            sequence.receipt(base=execution.fingerprint, mode=execution.mode, now=now),
        )
        self._scheduler.ended(now - sequence.request.arrived_s)
        self._telemetry.finished(sequence, now)
        self._remove(sequence)

    def _fail(self, sequences: list[Sequence] | tuple[Sequence, ...], error: Exception) -> None:
        for sequence in sequences:
            sequence.sink(FailEvent(error=error))
            self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        self._runner.drop([sequence.id])
        unused = self._scheduler.remove(sequence)
        if unused is not None:
            self._residency.release(unused)
        self._telemetry.queued(self._scheduler)

    def _restore_after_failure(self) -> None:
        """Whatever the runner did to the step, the next one starts from the base."""
        try:
            self._execution.restore()
        except Exception:
            log.exception("restoring the base failed")
            self._stop_if_broken()

    def _stop_if_broken(self) -> None:
        if self._execution.broken is not None:
            raise EngineDied(self._execution.broken)

    # Between steps.

    def _continue_audit(self) -> None:
        if not self._audits:
            return
        slices, done = self._audits[0]
        try:
            report = next(slices)
        except Exception as error:
            self._audits.pop(0)
            done.set_exception(error)
            return
        if report is not None:
            self._audits.pop(0)
            done.set_result(report)

    def _forget_unused(self) -> None:
        """A version in use is forgotten when its last request has ended."""
        for command in [c for c in self._forgets if not self._scheduler.uses(c.version)]:
            self._forgets.remove(command)
            try:
                self._execution.forget(command.version)
                command.done.set_result(None)
            except Exception as error:
                command.done.set_exception(error)
                self._stop_if_broken()

    def _is_drained(self) -> bool:
        return self._drain is not None and not self._scheduler.sequences

    def _close(self, error: Exception) -> None:
        """Nobody is left waiting for a thread that has ended."""
        for command in self._inbox.close():
            match command:
                case Submit(sink=sink):
                    sink(FailEvent(error=error))
                case Forget() | Verify() | Inspect() | Drain():
                    command.done.set_exception(error)
                case Abort() | BlendLoaded():
                    pass
        for sequence in self._scheduler.sequences:
            sequence.sink(FailEvent(error=error))
        for forget in self._forgets:
            forget.done.set_exception(error)
        for _, report in self._audits:
            report.set_exception(error)
        if self._drain is not None:
            self._drain.done.set_result(None)
