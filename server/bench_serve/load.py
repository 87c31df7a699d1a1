"""Loads a server with a workload, closed or open loop, and checks every answer against what was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Protocol

from server.bench_serve.http_client import Connection, Response
from server.bench_serve.workload import Arrival
from server.core.errors import ServerError

MAX_RETRY_S = 30.0
TOO_MANY_REQUESTS = 429


class WrongAnswer(ServerError):
    """A server answered with another blend than the one asked for, or with other than the tokens asked for: nothing
    that was measured counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What an answer ends with. ``mode`` and ``queue_ms`` are those of a receipt, None where there is none."""

    adapter: str | None
    num_prompt_tokens: int
    num_tokens: int
    mode: str | None = None
    queue_ms: float | None = None


class Dialect(Protocol):
    """How to ask a server, and how to read what it answers."""

    path: str

    def body(self, arrival: Arrival) -> object: ...

    def secret(self, arrival: Arrival) -> str | None: ...

    def finished(self, events: Sequence[object]) -> Finished:
        """Raises LookupError, TypeError, ValueError when the events are no answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Seconds from when the request was first sent: to the first text, to the end. ``longest_gap_s`` between texts."""

    arrival: Arrival
    finished: Finished
    first_text_s: float
    total_s: float
    longest_gap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of a workload gave. ``failures``: how many requests ended without an answer, by reason;
    ``num_refusals``: 429, which closed-loop clients try again after the time that the server states.
    ``client_cpu_s``: what the generating of this load took of the machine."""

    wall_s: float
    answered: tuple[Answered, ...]
    failures: dict[str, int]
    num_refusals: int
    client_cpu_s: float


def run_load(host: str, port: int, dialect: Dialect, arrivals: Sequence[Arrival], *, concurrency: int | None) -> Load:
    """Closed loop with so many clients; with None, open loop at the arrivals' times. Raises WrongAnswer."""
    try:
        return asyncio.run(_Loading(host, port, dialect).run(arrivals, concurrency))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class _Loading:
    def __init__(self, host: str, port: int, dialect: Dialect) -> None:
        self._host, self._port, self._dialect = host, port, dialect
        self._answered: list[Answered] = []
        self._failures: dict[str, int] = {}
        self._num_refusals = 0
        self._connections: list[Connection] = []
        self._idle: list[Connection] = []

    async def run(self, arrivals: Sequence[Arrival], concurrency: int | None) -> Load:
        started_s, cpu_s = perf_counter(), process_time()
        try:
            async with asyncio.TaskGroup() as tasks:
                if concurrency is None:
                    for arrival in arrivals:
                        tasks.create_task(self._at_its_time(arrival, started_s))
                else:
                    queue = iter(arrivals)
                    for _ in range(min(concurrency, len(arrivals))):
                        tasks.create_task(self._client(queue))
            wall_s, client_cpu_s = perf_counter() - started_s, process_time() - cpu_s
        finally:
            for connection in self._connections:
                await connection.close()
        return Load(
            wall_s=wall_s,
            answered=tuple(self._answered),
            failures=self._failures,
            num_refusals=self._num_refusals,
            client_cpu_s=client_cpu_s,
        )

    async def _client(self, queue: Iterator[Arrival]) -> None:
        for arrival in queue:  # shared: whoever is free takes the next one
            await self._ask(arrival, tries_again=True)

    async def _at_its_time(self, arrival: Arrival, started_s: float) -> None:
        await asyncio.sleep(started_s + (arrival.at_s or 0.0) - perf_counter())
        await self._ask(arrival, tries_again=False)

    async def _ask(self, arrival: Arrival, *, tries_again: bool) -> None:
        connection = self._idle.pop() if self._idle else self._new_connection()
        sent_s = perf_counter()
        try:
            response = await self._post(connection, arrival)
            while response.status == TOO_MANY_REQUESTS:
                self._num_refusals += 1
                if not tries_again:
                    break
                await asyncio.sleep(_retry_after_s(response))
                response = await self._post(connection, arrival)
            self._record(arrival, response, sent_s)
        except OSError as error:
            self._fail(type(error).__name__)
        finally:
            self._idle.append(connection)

    def _new_connection(self) -> Connection:
        self._connections.append(Connection(self._host, self._port))
        return self._connections[-1]

    async def _post(self, connection: Connection, arrival: Arrival) -> Response:
        body, secret = self._dialect.body(arrival), self._dialect.secret(arrival)
        return await connection.post(self._dialect.path, body, secret=secret)

    def _record(self, arrival: Arrival, response: Response, sent_s: float) -> None:
        if response.status != 200:
            self._fail(f"{response.status} {_error_code(response)}".strip())
            return
        try:
            finished = self._dialect.finished(response.events)
        except (LookupError, TypeError, ValueError):
            self._fail("broken stream")
            return
        _check(arrival, finished)
        first_text_s = response.ended_s if response.first_text_s is None else response.first_text_s
        self._answered.append(
            Answered(
                arrival=arrival,
                finished=finished,
                first_text_s=first_text_s - sent_s,
                total_s=response.ended_s - sent_s,
                longest_gap_s=response.longest_gap_s,
            )
        )

    def _fail(self, reason: str) -> None:
        self._failures[reason] = self._failures.get(reason, 0) + 1


def _check(arrival: Arrival, finished: Finished) -> None:
    asked = (arrival.adapter, arrival.num_new_tokens)
    got = (finished.adapter, finished.num_tokens)
    if asked != got:
        raise WrongAnswer(
            f"asked for adapter {asked[0]} and {asked[1]} tokens, got adapter {got[0]} and {got[1]} tokens"
        )


def _retry_after_s(response: Response) -> float:
    try:
        return min(float(response.headers["retry-after"]), MAX_RETRY_S)
    except (KeyError, ValueError):
        return 1.0


def _error_code(response: Response) -> str:
    try:
        return str(json.loads(response.body)["error"]["code"])
    except (LookupError, TypeError, ValueError):
        return ""
