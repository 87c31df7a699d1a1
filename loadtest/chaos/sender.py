"""Sends one request and enters in the ledger what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Self

import httpx

from loadtest.chaos.ledger import Ledger, Outcome
from server.api.errors import TABLE

ANSWER_TIMEOUT_S = 60.0  # nobody waits longer for anything: no answer by then is none at all
CODES = {(row.status, row.code) for row in TABLE.values()}
NEVER_EXCUSED = {"internal_error", "stored_bytes_corrupt", "step_failed", "switch_failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """``answer`` is there for a success. ``code`` is that of a documented error, None where the connection ended."""

    outcome: Outcome
    answer: dict[str, Any] | None = None
    code: str | None = None


Check = Callable[[dict[str, Any]], str | None]  # what is wrong with an answer


def nothing_wrong(_: dict[str, Any]) -> None:
    return None


class Sender:
    """For one thread."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        hooks = {"response": [self._take_note_of_head]}
        self._client = httpx.Client(base_url=url, timeout=ANSWER_TIMEOUT_S, trust_env=False, event_hooks=hooks)
        self._ledger = ledger
        self._has_head = False  # of the answer to the request that is on its way

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def upload(self, name: str, path: Path, check: Check = nothing_wrong) -> Reply:
        with path.open("rb") as file:
            return self._send("POST", "/adapters", check, data={"name": name}, files={"file": file})

    def move(self, name: str, version: str, check: Check = nothing_wrong) -> Reply:
        return self._send("PATCH", f"/adapters/{name}", check, json={"version": version})

    def delete(self, name: str) -> Reply:
        return self._send("DELETE", f"/adapters/{name}", nothing_wrong)

    def generate(self, body: dict[str, Any], check: Check) -> Reply:
        if not body.get("stream"):
            return self._send("POST", "/generate", check, json=body)
        return self._entered("POST /generate (stream)", check, lambda: self._streamed(body))

    def _send(self, method: str, path: str, check: Check, **what: Any) -> Reply:
        return self._entered(f"{method} {path}", check, lambda: _reply(self._client.request(method, path, **what)))

    def _streamed(self, body: dict[str, Any]) -> Reply:
        with self._client.stream("POST", "/generate", json=body) as response:
            if response.status_code != HTTPStatus.OK:
                response.read()
                return _reply(response)
            return _last_event(response.iter_lines())

    def _entered(self, what: str, check: Check, send: Callable[[], Reply]) -> Reply:
        sent_at = monotonic()
        self._has_head = False
        problem: str | None = None
        try:
            reply = send()
        except httpx.TimeoutException:
            reply, problem = Reply(outcome=Outcome.LOST), f"no answer in {ANSWER_TIMEOUT_S:g} s"
        except httpx.TransportError as error:
            was_connected = not isinstance(error, httpx.ConnectError)
            outcome = self._ledger.of_broken_connection(
                sent_at=sent_at, was_connected=was_connected, was_taken=self._has_head
            )
            reply, problem = Reply(outcome=outcome), f"the connection ended: {error!r}"
        except Misanswered as error:
            reply, problem = Reply(outcome=Outcome.WRONG), str(error)
        else:
            problem = check(reply.answer) if reply.answer is not None else None
            if problem is not None:
                reply = Reply(outcome=Outcome.WRONG, answer=reply.answer)
        self._ledger.note(reply.outcome, reply.code or f"{what}: {problem}")
        return reply

    def _take_note_of_head(self, _: httpx.Response) -> None:
        self._has_head = True


class Misanswered(Exception):
    """Neither the answer nor a documented error."""


def _reply(response: httpx.Response) -> Reply:
    if response.is_success:
        return Reply(outcome=Outcome.ANSWERED, answer=response.json())
    return _refusal(response.status_code, response.text)


def _last_event(lines: Iterable[str]) -> Reply:
    """Of server-sent events: the last one before ``[DONE]`` is the answer, the pieces put together, or an error."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    last = json.loads(events[-2] if events[-1:] == ["[DONE]"] and len(events) > 1 else events[-1] if events else "{}")
    if "error" in last:
        return _refusal(None, json.dumps(last))
    if events[-1:] != ["[DONE]"]:
        raise httpx.RemoteProtocolError(f"the stream ended after {len(events)} events")
    text = "".join(json.loads(event).get("text", "") for event in events[:-1])
    return Reply(outcome=Outcome.ANSWERED, answer=last | {"text": text})


def _refusal(status: int | None, body: str) -> Reply:
    """Within a stream, which has its status already, ``status`` is None."""
    try:
        error = json.loads(body)["error"]
        code = error["code"]
        is_documented = error.keys() == {"type", "code", "message", "param"} and any(
            code == known and status in (None, known_status) for known_status, known in CODES
        )
    except (ValueError, LookupError, TypeError):
        is_documented, code = False, None
    if not is_documented or code in NEVER_EXCUSED:
        raise Misanswered(f"{status}: {body[:200]}")
    return Reply(outcome=Outcome.REFUSED, code=code)
