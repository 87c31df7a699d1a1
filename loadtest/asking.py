"""Asks for a text or a picture over HTTP, reads the answer as it comes, and says how it ended.

Plain blocking code: under Locust, sockets and clocks give way to other requests.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

import httpx

from loadtest import checks
from loadtest.names import Names
from loadtest.outcomes import Ending, Outcome
from loadtest.stock import Stock
from loadtest.trace import ImageRow, TextRow

DEADLINE_MS = 120_000
_TEXT = re.compile(rb'"text": ?"[^"]')  # the first event that carries some
KEEP_ALIVE_S = 2.0  # servers close idle connections, some after 5 s: better not to ask one that is about to
REFUSED_IN_STREAM = "deadline_exceeded"  # any other end of a stream that has begun breaks a promise


Judged = tuple[Ending, str, dict[str, Any]]  # how it ended, what is wrong, the answer where nothing is


class ClientLeft(Exception):
    """The client of a request that was to go away has done so."""


def http_client(url: str) -> httpx.Client:
    """For any number of requests at a time."""
    limits = httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_S)
    timeout = httpx.Timeout(DEADLINE_MS / 1e3 + 30, pool=None)
    return httpx.Client(base_url=url, limits=limits, timeout=timeout, trust_env=False)


@dataclass(slots=True, kw_only=True)
class Reading:
    """What has come of an answer. Times are ``monotonic`` seconds."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    body: bytearray = field(default_factory=bytearray)
    first_text_s: float | None = None
    ended_s: float = 0.0

    def events(self) -> list[Any]:
        """Of a stream, without the ``[DONE]`` that must end it. Raises ValueError if it does not."""
        payloads = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        if payloads and payloads[-1].startswith(b'{"error"'):
            return [json.loads(payloads[-1])]
        if not payloads or payloads.pop().strip() != b"[DONE]":
            raise ValueError(f"the stream ended without [DONE]: {bytes(self.body[-200:])!r}")
        return [json.loads(payload) for payload in payloads]


class Asker:
    """For the users of one run, which starts at ``start_s``."""

    def __init__(self, stock: Stock, names: Names, *, start_s: float) -> None:
        self._words, self._captions = stock.words, stock.captions
        self._names, self._start_s = names, start_s

    def text(self, client: httpx.Client, row: TextRow) -> Outcome:
        prompt = "".join(Random(row.seed).choices(self._words, k=row.prompt_tokens))
        return self._ask(client, row, prompt, {"max_new_tokens": row.output_tokens, "ignore_eos": True})

    def image(self, client: httpx.Client, row: ImageRow) -> Outcome:
        prompt = Random(row.seed).choice(self._captions)
        parameters = {"num_inference_steps": row.num_steps, "height": row.side, "width": row.side, "seed": row.seed}
        return self._ask(client, row, prompt, parameters)

    def _ask(self, client: httpx.Client, row: TextRow | ImageRow, prompt: str, parameters: dict[str, Any]) -> Outcome:
        body = {
            "prompt": prompt,
            "adapter": [{"name": name, "scale": row.scale} for name in row.adapters],
            "parameters": parameters,
            "stream": row.stream,
            "deadline_ms": DEADLINE_MS,
        }
        sent_s, reading = monotonic(), Reading()
        judged: Judged
        try:
            _read(client, body, reading, leaves_s=None if row.hang_up_s is None else sent_s + row.hang_up_s)
            judged = self._judge(row, reading, sent_s)
        except ClientLeft:
            judged = "left", "", {}
        except httpx.HTTPError as error:
            judged = "lost", f"{type(error).__name__}: {error}", {}
        return self._outcome(row, reading, sent_s, judged)

    def _judge(self, row: TextRow | ImageRow, reading: Reading, sent_s: float) -> Judged:
        if ended := checks.unanswered(reading.status, reading.headers, bytes(reading.body)):
            return *ended, {}
        if reading.status != httpx.codes.OK:
            return "wrong", f"{reading.status}: {bytes(reading.body[:300])!r}", {}
        try:
            answers = reading.events() if row.stream else [json.loads(reading.body)]
        except (ValueError, RecursionError) as error:
            return "lost", str(error), {}
        answer: Any = answers[-1] if answers else None
        if isinstance(answer, dict) and "error" in answer:
            code = answer["error"].get("code") if isinstance(answer["error"], dict) else None
            return ("refused" if code == REFUSED_IN_STREAM else "lost"), f"in the stream: {code}", {}
        versions = {name: self._names.possible(name, since_s=sent_s) for name in row.adapters}
        problem = checks.wrong_answer(row, answer, versions)
        return ("wrong", problem, {}) if problem else ("answered", "", answer)

    def _outcome(self, row: TextRow | ImageRow, reading: Reading, sent_s: float, judged: Judged) -> Outcome:
        ended_s = reading.ended_s
        ending, detail, answer = judged
        receipt, is_text = answer.get("receipt", {}), isinstance(row, TextRow)
        num_tokens = row.output_tokens if isinstance(row, TextRow) and answer else 0
        first_s = reading.first_text_s if is_text and row.stream and answer else None
        return Outcome(
            action=row.kind,
            ending=ending,
            detail=detail,
            due_s=row.offset_s,
            sent_s=sent_s - self._start_s,
            total_s=ended_s - sent_s,
            first_text_s=None if first_s is None else first_s - sent_s,
            token_s=(ended_s - first_s) / (num_tokens - 1) if first_s is not None and num_tokens > 1 else None,
            num_tokens=num_tokens,
            switch_ms=receipt.get("switch_ms"),
            queue_ms=receipt.get("queue_ms"),
            mode=receipt.get("mode"),
        )


def _read(client: httpx.Client, body: object, reading: Reading, *, leaves_s: float | None) -> None:
    """Raises ClientLeft at ``leaves_s``, and httpx.HTTPError. ``reading`` is as far as it came."""
    waits_s = None if leaves_s is None else max(leaves_s - monotonic(), 1e-3)
    patience: Any = {} if waits_s is None else {"timeout": waits_s}
    try:
        with client.stream("POST", "/generate", json=body, **patience) as response:
            reading.status, reading.headers = response.status_code, response.headers
            for chunk in response.iter_raw():
                _add(reading, chunk)
                if leaves_s is not None and monotonic() >= leaves_s:
                    raise ClientLeft
    except httpx.TimeoutException:
        if leaves_s is None:
            raise
        raise ClientLeft from None
    finally:
        reading.ended_s = monotonic()  # before the answer is looked at, which takes its time


def _add(reading: Reading, chunk: bytes) -> None:
    reading.body += chunk
    if reading.first_text_s is None and _TEXT.search(reading.body):
        reading.first_text_s = monotonic()
