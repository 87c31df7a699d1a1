"""Where commands wait for the engine thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition

from server.core.requests import GenerationRequest, RequestId
from server.engine.messages import Abort, Command, Submit


class Inbox:
    """Takes a bounded number of requests; every other command always, since each belongs to an accepted request or
    to an operator waiting for its answer. Any thread may put, the engine thread takes."""

    def __init__(self, max_submits: int) -> None:
        self._max_submits = max_submits
        self._num_submits = 0
        self._commands: deque[Command] = deque()
        self._changed = Condition()
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def put(self, command: Command) -> bool:
        """False if it was not taken: too many requests wait already, or the inbox is closed."""
        with self._changed:
            if self._is_closed:
                return False
            if isinstance(command, Submit):
                if self._num_submits + len(command.requests) > self._max_submits:
                    return False
                self._num_submits += len(command.requests)
            self._commands.append(command)
            self._changed.notify()
            return True

    def take_all(self, *, timeout_s: float | None) -> list[Command]:
        """Everything that is here; if that is nothing, waits for up to ``timeout_s`` (None: for ever)."""
        with self._changed:
            if not self._commands and timeout_s != 0:
                self._changed.wait(timeout_s)
            commands = list(self._commands)
            self._commands.clear()
            self._num_submits = 0
            return commands

    def take_aborts(self, is_live: Callable[[RequestId], bool]) -> list[Abort]:
        """Takes the aborts of requests that are live, and leaves the rest: of others the Submit is still here."""
        with self._changed:
            taken = [c for c in self._commands if isinstance(c, Abort) and is_live(c.request_id)]
            for abort in taken:
                self._commands.remove(abort)
            return taken

    def requests(self) -> list[GenerationRequest]:
        """Those that the engine thread has not taken yet. Any thread."""
        with self._changed:
            return [request for c in self._commands if isinstance(c, Submit) for request in c.requests]

    def close(self) -> list[Command]:
        """Takes no more; returns what nobody will handle."""
        with self._changed:
            self._is_closed = True
            left = list(self._commands)
            self._commands.clear()
            return left
