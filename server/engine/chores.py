"""Work between steps that no request waits for: audits, and forgetting adapters that are gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from server.core.steps import VerifyReport
from server.engine.messages import Forget, Verify
from server.engine.ports import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapters_store.adapter import Version


class Chores:
    """Engine thread only. ``is_used`` tells whether a live request needs a version."""

    def __init__(self, execution: Execution, *, is_used: Callable[[Version], bool]) -> None:
        self._execution = execution
        self._is_used = is_used
        self._audits: deque[tuple[Verify, Iterator[VerifyReport | None]]] = deque()
        self._forgets: list[Forget] = []

    @property
    def is_busy(self) -> bool:
        """True while ``do_some`` has something to do that nothing else waits for."""
        return bool(self._audits)

    def verify(self, command: Verify) -> None:
        self._audits.append((command, self._execution.verify()))

    def forget(self, command: Forget) -> None:
        self._forgets.append(command)

    def do_some(self) -> None:
        """One slice of the first audit, and what can be forgotten."""
        if self._audits:
            self._continue_audit()
        self.forget_unused()

    def forget_unused(self) -> None:
        """Every forgetting whose version nobody uses any more."""
        for command in [forget for forget in self._forgets if not self._is_used(forget.version)]:
            self._forgets.remove(command)
            self._forget(command)

    def fail(self, error: Exception) -> None:
        for verify, _ in self._audits:
            verify.done.set_exception(error)
        for forget in self._forgets:
            forget.done.set_exception(error)

    def _continue_audit(self) -> None:
        command, slices = self._audits[0]
        try:
            report = next(slices)
        except Exception as error:
            self._audits.popleft()
            command.done.set_exception(error)
            return
        if report is not None:
            self._audits.popleft()
            command.done.set_result(report)

    def _forget(self, command: Forget) -> None:
        try:
            self._execution.forget(command.version)
        except Exception as error:
            command.done.set_exception(error)
        else:
            command.done.set_result(None)
