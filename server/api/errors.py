"""THE table: error class to HTTP status, code and type. Every answer that is an error gets its shape here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from adapters_store import errors as stored
from server.api.outcomes import OUTCOME
from server.core import errors as core
from server.core.metrics import Verdict

MAX_SHOWN_CHARS = 60
CLIENT_CLOSED_REQUEST = 499  # seen in metrics only: nobody is there to read it


class BodyTooLarge(HTTPException):
    """An HTTPException because FastAPI turns any other error out of reading a body into its own 400."""

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(413, f"the body is larger than {limit_bytes} bytes, which is the limit here")


class RepeatedKey(HTTPException):
    """An HTTPException for the same reason."""

    def __init__(self, key: str) -> None:
        self.param = key[:MAX_SHOWN_CHARS]
        super().__init__(400, f"the body: expected every key once in an object, got {self.param!a} twice")


class UnsupportedMediaType(core.ServerError):
    def __init__(self, *, expected: str, got: str) -> None:
        super().__init__(f"content type: expected {expected}, got {got or 'none'}")


class NotAcceptable(core.ServerError):
    pass


class DeletePending(core.ServerError):
    def __init__(self, *, num_versions: int, waited_s: float) -> None:
        super().__init__(
            f"the name is deleted, but running requests still use {num_versions} of its versions after {waited_s:g} s; "
            "their memory is freed when those requests end"
        )


class ErrorDetail(BaseModel):
    """``code`` is what a program should look at; ``param`` the field, part or tensor at fault."""

    type: str
    code: str
    message: str
    param: str | None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Status:
    status: int
    code: str
    type: str
    retry_after_s: int | None = None


TABLE: Mapping[type[Exception], Status] = {
    core.RequestRejected: Status(400, "invalid_request", "invalid_request_error"),
    RequestValidationError: Status(400, "invalid_request", "invalid_request_error"),
    RepeatedKey: Status(400, "invalid_request", "invalid_request_error"),
    stored.BlendRejected: Status(400, "blend_rejected", "invalid_request_error"),
    core.Unauthenticated: Status(401, "unauthenticated", "authentication_error"),
    core.Forbidden: Status(403, "forbidden", "permission_error"),
    stored.AdapterNotFound: Status(404, "adapter_not_found", "not_found_error"),
    stored.CatalogConflict: Status(409, "conflict", "conflict_error"),
    DeletePending: Status(409, "adapter_in_use", "conflict_error"),
    stored.AdapterInUse: Status(409, "adapter_in_use", "conflict_error"),
    NotAcceptable: Status(406, "not_acceptable", "invalid_request_error"),
    BodyTooLarge: Status(413, "body_too_large", "invalid_request_error"),
    UnsupportedMediaType: Status(415, "unsupported_media_type", "invalid_request_error"),
    stored.LimitExceeded: Status(422, "adapter_limit_exceeded", "invalid_request_error"),
    stored.BaseMismatch: Status(422, "adapter_base_mismatch", "invalid_request_error"),
    stored.AdapterRejected: Status(422, "adapter_rejected", "invalid_request_error"),
    core.QueueFull: Status(429, "queue_full", "rate_limit_error"),
    core.DeadlineUnreachable: Status(429, "deadline_unreachable", "rate_limit_error"),
    ClientDisconnect: Status(CLIENT_CLOSED_REQUEST, "aborted", "client_error"),
    core.Aborted: Status(CLIENT_CLOSED_REQUEST, "aborted", "client_error"),
    core.SwitchFailed: Status(500, "switch_failed", "server_error"),
    core.StepFailed: Status(500, "step_failed", "server_error"),
    stored.BlobCorrupt: Status(500, "stored_bytes_corrupt", "server_error"),
    core.Draining: Status(503, "draining", "server_error", retry_after_s=5),
    core.EngineDied: Status(503, "engine_died", "server_error", retry_after_s=10),
    core.OutOfMemory: Status(503, "out_of_memory", "server_error", retry_after_s=5),
    core.ModelNotLoadable: Status(503, "base_not_ready", "server_error"),
    stored.AdapterUnavailable: Status(503, "adapter_unavailable", "server_error", retry_after_s=5),
    core.DeadlineExceeded: Status(504, "deadline_exceeded", "timeout_error"),
    stored.BudgetExceeded: Status(507, "budget_exceeded", "server_error"),
    stored.NeverFits: Status(507, "budget_exceeded", "server_error"),
    stored.StorageFull: Status(507, "storage_full", "server_error"),
    Exception: Status(500, "internal_error", "server_error"),
}

STOP = TABLE[core.Draining].code  # to those who come while it stops, and those who were not answered before its end
OUR_FAULTS = frozenset(row.code for row in TABLE.values() if row.status >= 500) - {STOP}
REFUSALS = frozenset(row.code for row in TABLE.values() if row.status == 429) | {STOP}  # each with Retry-After

HTTP_CODES: Mapping[int, str] = {400: "invalid_request", 404: "route_not_found"}  # others: the status's own name


def classify(error: Exception) -> Status:
    """The row of the nearest class in the error's ancestry."""
    if isinstance(error, HTTPException) and type(error) not in TABLE:
        code = HTTP_CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return Status(error.status_code, code, kind if error.status_code < 500 else "server_error")
    return next(TABLE[ancestor] for ancestor in type(error).__mro__ if ancestor in TABLE)


def judge(outcome: str) -> Verdict:
    """What the outcome of a generation says of the server."""
    if outcome in OUR_FAULTS:
        return "failed"
    if outcome in REFUSALS:
        return "refused"
    return "ok" if outcome == "ok" else "client"


def error_body(error: Exception) -> dict[str, object]:
    """The one JSON shape. An error that is in no row tells the client nothing of itself."""
    status = classify(error)
    message, param = _message(error), _param(error)
    return {"error": {"type": status.type, "code": status.code, "message": message, "param": param}}


def error_response(error: Exception) -> JSONResponse:
    status = classify(error)
    headers = dict(getattr(error, "headers", None) or {})
    retry_after_s = getattr(error, "retry_after_s", status.retry_after_s)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if status.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=status.status, headers=headers)


async def answer_error(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """For middleware, which runs outside the handlers below."""
    scope[OUTCOME] = classify(error).code
    await error_response(error)(scope, receive, send)


def install_error_handlers(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            where = f"{request.method} {request.url.path[:200]}"
            error = HTTPException(error.status_code, f"{error.detail}: {where}", error.headers)
        request.scope[OUTCOME] = classify(error).code
        return error_response(error)

    for known in (*TABLE, HTTPException):
        app.add_exception_handler(known, answer)


def _message(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        if problem := _body_problem(error):
            return problem
        return "; ".join(f"{_location(item)}: {_problem(item)}" for item in error.errors()[:5])
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, RecursionError):
            return "the body is not JSON: it is nested too deeply"
        if isinstance(error.__cause__, ValueError):  # bad UTF-8, or a number of thousands of digits
            return f"the body is not JSON: {str(error.__cause__).partition(';')[0]}"
        return str(error.detail)
    if isinstance(error, core.ServerError | stored.AdapterStoreError):
        return str(error)
    return "an unexpected error happened; the server's log has the details"


def _param(error: Exception) -> str | None:
    if isinstance(error, RequestValidationError):
        return None if _body_problem(error) else _location(error.errors()[0])
    if isinstance(error, stored.AdapterRejected):
        return error.tensor
    if isinstance(error, stored.AdapterNotFound | stored.BlendRejected):
        return "adapter"
    return getattr(error, "param", None)


def _body_problem(error: RequestValidationError) -> str | None:
    """What is wrong with a body that is no JSON at all."""
    first = error.errors()[0]
    match first["type"], first["loc"]:
        case "json_invalid", (_, int(position)):
            before = str(error.body)[:position]
            line, column = before.count("\n") + 1, position - before.rfind("\n")
            return f"the body is not JSON: {first['ctx']['error']} at line {line} column {column}"
        case "missing", ("body",):
            return "the body is empty: expected a JSON object"
    return None


def _problem(item: Mapping[str, Any]) -> str:
    """What pydantic says, and the value it says it of: not of a header or an unknown field, which may be a secret."""
    is_object_expected = item["type"] == "model_attributes_type"
    problem = "expected an object" if is_object_expected else item["msg"].removeprefix("Value error, ")
    value = item["input"]
    is_shown = item["type"] not in ("missing", "extra_forbidden") and item["loc"][0] in ("body", "query", "path")
    if not is_shown or not isinstance(value, str | int | float | None):
        return problem
    shown = json.dumps(value)
    return f"{problem}, got {shown if len(shown) <= MAX_SHOWN_CHARS else shown[: MAX_SHOWN_CHARS - 3] + '...'}"


def _location(item: dict[str, object]) -> str:
    """``("body", "adapter", "<list>", 0, "name")`` to ``"adapter.0.name"``; angle brackets mark forms of a field."""
    loc = item["loc"]
    parts = [str(part) for part in loc if not str(part).startswith("<")] if isinstance(loc, tuple | list) else []
    return ".".join(parts[1:] or parts)
