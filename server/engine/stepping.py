"""What happens to requests: taken in, run step by step, answered or failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from collections.abc import Sequence as AnySequence
from typing import TYPE_CHECKING

from adapters_store.errors import AdapterStoreError, BudgetExceeded
from server.core.errors import Aborted, EngineDied, ServerError, StepFailed, SwitchFailed
from server.core.memory_shortage import told_of_memory
from server.core.requests import FinishReason, RequestId
from server.core.steps import LoadReport, StepError, StepResult
from server.engine.group import Group
from server.engine.messages import Abort, FailEvent, Submit
from server.engine.plan import Plan
from server.engine.ports import Clock, Execution, Residency, Runner
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.sequences import sequence_of
from server.engine.telemetry import Telemetry

TakeAborts = Callable[[Callable[[RequestId], bool]], list[Abort]]

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey

log = logging.getLogger(__name__)

STEP_FAILED = "the model failed while it ran this request"


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
        take_aborts: TakeAborts,
    ) -> None:
        self._scheduler = scheduler
        self._execution = execution
        self._runner = runner
        self._residency = residency
        self._clock = clock
        self._telemetry = telemetry
        self._take_aborts = take_aborts

    def submit(self, command: Submit) -> None:
        """Takes requests in or tells them why not."""
        refusal = self._scheduler.refusal(command.requests, self._clock.now())
        if refusal is not None:
            self._telemetry.refused(refusal)
            for sink in command.sinks:
                sink(FailEvent(error=refusal))
            return
        for request, sink in zip(command.requests, command.sinks, strict=True):
            self._scheduler.add(sequence_of(request, sink))

    def loaded(self, group: Group, report: LoadReport) -> None:
        """A group's bytes have come, or why they could not."""
        error = report.error
        self._telemetry.loaded(group, report.took)
        if isinstance(error, BudgetExceeded) and self._scheduler.find_no_room(group):
            self._residency.release(group.blend)
        elif error is not None:
            self.fail(list(group), error)
        else:
            self._survey(group)

    def give_way(self) -> None:
        """Lets the bytes of one blend go if another has waited for room too long."""
        blend = self._scheduler.give_way()
        if blend is not None:
            self._residency.release(blend)

    def refuse(self, sequence: Sequence, error: ServerError) -> None:
        """Ends a request that was taken in but has not begun."""
        self._telemetry.refused(error)
        self.fail([sequence], error)

    def fail(self, sequences: Collection[Sequence], error: Exception) -> None:
        error = told_of_memory(error)
        for sequence in sequences:
            sequence.sink(FailEvent(error=error))
        self._telemetry.failed(sequences, error, self._clock.now())
        self._remove(sequences)

    def step(self) -> bool:
        """Runs one step; False if nothing was done, and nothing will be until something comes."""
        plan = self._scheduler.plan(self._execution.active)
        self._telemetry.seated(self._scheduler.seats, self._clock.now())
        failed = self._scheduler.seats.take_failed()
        for sequence, error in failed:
            self.fail([sequence], _told(error, StepFailed, "the model failed to start this request"))
        if plan is None:
            return bool(failed)  # others may have the bytes that these held
        plan = self._without_aborted(self._activate(plan))
        if plan.shares:
            self._run(plan)
        return True

    def check_weights(self) -> None:
        """Raises EngineDied if the execution can no longer vouch for the weights."""
        if self._execution.broken is not None:
            raise EngineDied(self._execution.broken)

    def _survey(self, group: Group) -> None:
        try:
            survey = self._execution.survey(group.blend)
        except AdapterStoreError as error:
            self.fail(list(group), error)
        except Exception as error:
            log.exception("a survey failed")
            self.fail(list(group), _told(error, SwitchFailed, "the adapter could not be looked at"))
        else:
            self._scheduler.loaded(group, survey)

    def _activate(self, plan: Plan) -> Plan:
        """What of the plan can run, now that the weights hold its blend; the rest has failed."""
        try:
            report = self._execution.activate(plan.blend, plan.beside)
        except AdapterStoreError as error:  # nobody who asks for this blend can have it
            self.fail(self._scheduler.of_blend(plan.blend.key), error)
            return plan.without(plan.sequences)
        except Exception as error:
            log.exception("a switch failed")
            self.fail(plan.sequences, _told(error, SwitchFailed, "the switch failed"))
            self.check_weights()
            return plan.without(plan.sequences)
        for sequence in plan.sequences:
            sequence.switch_s += report.total_s
        self._telemetry.switched(plan, report, self._clock.now())
        if self._execution.active.key != plan.blend.key:
            problem = f"the weights hold {self._execution.active.key} where {plan.blend.key} was asked for"
            log.error("a switch went wrong: %s", problem)
            self.fail(plan.sequences, SwitchFailed(problem))
            return plan.without(plan.sequences)
        num_beside = len(plan.beside) - len(report.failed)
        for key, reason in report.failed.items():
            plan = self._without_blend(plan, key, reason)
        is_short = any(isinstance(reason, BudgetExceeded) for reason in report.failed.values())
        if is_short and plan.beside[0].key not in report.failed:  # else it was one that never fits
            self._scheduler.ran_out_of_room(num_beside)
        return plan

    def _without_blend(self, plan: Plan, key: BlendKey, reason: Exception) -> Plan:
        """A blend that cannot run beside the others: for want of room it waits for another step, or fails."""
        if not isinstance(reason, BudgetExceeded):
            self.fail(self._scheduler.of_blend(key), reason)
        elif key == plan.beside[0].key:  # the first to be given room
            self._scheduler.stop_mixing(key)
        return plan.without([sequence for sequence in plan.sequences if sequence.request.blend.key == key])

    def _without_aborted(self, plan: Plan) -> Plan:
        """Nothing more is computed for, or sent to, those who went away meanwhile."""
        aborts = self._take_aborts(lambda request_id: self._scheduler.get(request_id) is not None)
        found = {self._scheduler.get(abort.request_id) for abort in aborts}
        aborted = [sequence for sequence in found if sequence is not None]
        self.fail(aborted, Aborted("the client went away"))
        return plan.without(aborted)

    def _run(self, plan: Plan) -> None:
        started_s = self._clock.now()
        new = [sequence for sequence in plan.sequences if sequence.started_s is None]
        for sequence in new:
            sequence.started_s = started_s
        self._telemetry.started(new, started_s)
        try:
            with self._telemetry.step(plan):
                results = self._runner.step(plan.work)
        except Exception as error:
            log.exception("a step failed")
            self.fail(plan.sequences, _told(error, StepFailed, STEP_FAILED))
            self._restore()
            return
        now = self._clock.now()
        self._scheduler.ran(plan, {result.id for result in results}, now - started_s, now)
        self._advance(self._without_aborted(plan), results, now)

    def _advance(self, plan: Plan, results: AnySequence[StepResult], now: float) -> None:
        running = {sequence.id: sequence for sequence in plan.sequences}
        done = []
        for result in results:
            sequence = running.get(result.id)
            if sequence is None:
                continue
            if isinstance(result, StepError):
                self.fail([sequence], _told(result.error, StepFailed, STEP_FAILED))
                continue
            reason = sequence.advance(result, now)
            self._telemetry.advanced(sequence, now)
            if reason is not None:
                self._finish(sequence, reason, now)
                done.append(sequence)
        self._remove(done)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        receipt = sequence.receipt(base=self._execution.fingerprint, now=now)
        sequence.finish(reason, self._runner.finish_text(sequence.id), receipt)
        self._scheduler.rates.ended(now, sequence.request.token_cost)
        self._telemetry.finished(sequence, now)

    def _remove(self, sequences: Collection[Sequence]) -> None:
        if not sequences:
            return
        self._runner.drop([sequence.id for sequence in sequences])
        for sequence in sequences:
            unused = self._scheduler.remove(sequence)
            if unused is not None:
                self._residency.release(unused)

    def _restore(self) -> None:
        """Whatever a failed step left behind, the next one starts from the base."""
        try:
            self._execution.restore()
        except Exception:
            log.exception("restoring the base failed")
            self.check_weights()


def _told(error: Exception, kind: type[StepFailed | SwitchFailed], what: str) -> Exception:
    """What the client is told of a failure: errors of our own as they are, such as of a switch within a step."""
    error = told_of_memory(error)  # now: of what it came is not kept, for that holds what the failed call held
    if isinstance(error, ServerError | AdapterStoreError):
        return error
    return kind(f"{what}: {error}")
