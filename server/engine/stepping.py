"""What happens to requests: taken in, run step by step, answered or failed."""

from __future__ import annotations

import logging
from collections.abc import Collection

from adapters_store.errors import AdapterStoreError
from server.core.errors import EngineDied, ServerError, StepFailed, SwitchFailed
from server.core.requests import FinishReason
from server.core.steps import StepToken
from server.engine.messages import FailEvent, Submit
from server.engine.ports import Clock, Execution, Residency, Runner
from server.engine.scheduler import Group, Plan, Scheduler
from server.engine.sequence import Sequence
from server.engine.telemetry import Telemetry

log = logging.getLogger(__name__)


class Stepper:
    """Keeps scheduler, runner and residency in step with one another. Engine thread only.

    A failure ends the requests it concerns and no others. Raises EngineDied alone: when the execution says that it
    can no longer vouch for the weights."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        execution: Execution,
        runner: Runner,
        residency: Residency,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._scheduler = scheduler
        self._execution = execution
        self._runner = runner
        self._residency = residency
        self._clock = clock
        self._telemetry = telemetry

    def submit(self, command: Submit) -> Group | None:
        """Takes requests in or tells them why not. Returns their group if the group's bytes must be loaded first."""
        sequences = [
            Sequence(request=request, sink=sink) for request, sink in zip(command.requests, command.sinks, strict=True)
        ]
        refusal = self._scheduler.refusal([sequence.new for sequence in sequences])
        if refusal is not None:
            for sink in command.sinks:
                sink(FailEvent(error=refusal))
            return None
        to_load = [self._scheduler.add(sequence) for sequence in sequences][0]
        self._telemetry.queued(self._scheduler)
        return to_load

    def fail(self, sequences: Collection[Sequence], error: Exception) -> None:
        for sequence in sequences:
            sequence.sink(FailEvent(error=error))
        self._remove(sequences)

    def step(self, plan: Plan) -> None:
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
            self.fail(plan.sequences, StepFailed(f"the model failed while it ran this request: {error}"))
            self._restore()
            return
        self._advance(plan, tokens)

    def check_weights(self) -> None:
        """Raises EngineDied if the execution can no longer vouch for the weights."""
        if self._execution.broken is not None:
            raise EngineDied(self._execution.broken)

    def _activate(self, plan: Plan) -> bool:
        """True if the weights hold the plan's blend now; else its requests have failed."""
        try:
            report = self._execution.activate(plan.blend)
        except AdapterStoreError as error:  # nobody who asks for this blend can have it
            self.fail(self._scheduler.of_blend(plan.blend.key), error)
            return False
        except Exception as error:
            log.exception("a switch failed")
            failed = error if isinstance(error, ServerError) else SwitchFailed(f"the switch failed: {error}")
            self.fail(plan.sequences, failed)
            self.check_weights()
            return False
        for sequence in plan.sequences:
            sequence.switch_s += report.total_s
        if self._execution.active.key != plan.blend.key:
            problem = f"the weights hold {self._execution.active.key} where {plan.blend.key} was asked for"
            log.error("a switch went wrong: %s", problem)
            self.fail(plan.sequences, SwitchFailed(problem))
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
        done = []
        for token in tokens:
            sequence = running[token.id]
            reason = sequence.advance(token, now)
            if reason is not None:
                self._finish(sequence, reason, now)
                done.append(sequence)
        self._remove(done)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        execution = self._execution
        receipt = sequence.receipt(base=execution.fingerprint, mode=execution.mode, now=now)
        sequence.finish(reason, self._runner.finish_text(sequence.id), receipt)
        self._scheduler.ended(now - sequence.request.arrived_s)
        self._telemetry.finished(sequence, now)

    def _remove(self, sequences: Collection[Sequence]) -> None:
        """All at once: the runner moves the KV of those that stay each time."""
        if sequences:
            self._runner.drop([sequence.id for sequence in sequences])
        for sequence in sequences:
            unused = self._scheduler.remove(sequence)
            if unused is not None:
                self._residency.release(unused)
        self._telemetry.queued(self._scheduler)

    def _restore(self) -> None:
        """Whatever a failed step left behind, the next one starts from the base."""
        try:
            self._execution.restore()
        except Exception:
            log.exception("restoring the base failed")
            self.check_weights()
