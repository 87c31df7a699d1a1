"""Every error of the server, one class per decision a caller can take. HTTP statuses live in ``api/errors.py``.

::

    ServerError
    ├── ConfigError          a setting is wrong: names key, value and source
    ├── RequestRejected      the request is malformed or past a stated limit (``param`` names the field)
    ├── Unauthenticated      no key, or one that is not known
    ├── Forbidden            the key's role does not allow this
    ├── QueueFull            try again after ``retry_after_s``
    ├── Draining             the server is stopping, or the base is not ready
    ├── DeadlineUnreachable  what waits already leaves no time for this request; try again after ``retry_after_s``
    ├── DeadlineExceeded     the request's own deadline passed
    ├── Aborted              the client went away
    ├── SwitchFailed         a blend could not be made active; the base was restored
    ├── StepFailed           the model failed while it ran this request; others go on
    ├── ModelNotLoadable     the base model cannot be loaded: says why and what to do
    ├── OutOfMemory          the machine has no memory for this now; others go on
    └── EngineDied           the engine thread ended: the process is not healthy
"""

from __future__ import annotations


class ServerError(Exception):
    """Root of the tree. ``str(error)`` is fit to be shown to a client."""


class ConfigError(ServerError):
    def __init__(self, *, key: str, value: str, source: str, problem: str) -> None:
        self.key = key
        super().__init__(f"{source}: {key} = {value!r}: {problem}")


class RequestRejected(ServerError):
    def __init__(self, message: str, *, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class Unauthenticated(ServerError):
    pass


class Forbidden(ServerError):
    pass


class QueueFull(ServerError):
    def __init__(self, *, limit: int, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{limit} requests are waiting already, which is the limit; retry in {retry_after_s} s")


class Draining(ServerError):
    pass


class DeadlineUnreachable(ServerError):
    """Refused before any work was done on it. To a client as QueueFull: 429 with Retry-After."""

    def __init__(self, *, deadline_ms: int, needed_ms: int, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"the request cannot be done within its deadline of {deadline_ms} ms: at the present load it takes "
            f"{needed_ms} ms at least; retry in {retry_after_s} s or allow more time"
        )


class DeadlineExceeded(ServerError):
    def __init__(self, *, deadline_ms: int) -> None:
        super().__init__(f"the request's deadline of {deadline_ms} ms passed before it was done")


class Aborted(ServerError):
    pass


class SwitchFailed(ServerError):
    pass


class StepFailed(ServerError):
    pass


class ModelNotLoadable(ServerError):
    pass


class OutOfMemory(ServerError):
    pass


class EngineDied(ServerError):
    pass
