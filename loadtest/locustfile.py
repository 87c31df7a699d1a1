"""Locust users of shira servers: texts, pictures, uploads, and with all three a mixed day. Open loop: each request is
sent at its time in the trace, whoever is still waiting.

Run as a process of its own (Locust patches the standard library) by ``python -m loadtest.run``, which writes the folder
that ``--run-dir`` names: the trace, and the stock of servers, versions and files."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any, assert_never

import gevent
import httpx
from gevent.pool import Group
from locust import User, events, task
from locust.exception import StopUser

from loadtest.asking import Asker, http_client
from loadtest.lives import Lives
from loadtest.names import Names
from loadtest.outcomes import Outcome, to_line
from loadtest.run_files import OUTCOMES, START, STOCK, TRACE
from loadtest.stock import Stock
from loadtest.trace import AnyRow, ImageRow, TextRow, UploadRow, read_trace


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run-dir", type=Path, required=True)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def begin(environment: Any, **_: object) -> None:
    environment.load_test = Run(environment.parsed_options.run_dir)


class Run:
    """What the users of one run share. ``start_s`` is a ``monotonic`` second, also written beside the outcomes."""

    def __init__(self, folder: Path) -> None:
        stock = Stock.load(folder / STOCK)
        self.rows = read_trace(folder / TRACE)
        self.start_s = time.monotonic() + 0.5
        self.clients = {name: http_client(server.url) for name, server in stock.servers.items()}
        self._outcomes = (folder / OUTCOMES).open("w", buffering=1)
        names = {server: Names(_current_versions(client)) for server, client in self.clients.items()}
        self.askers = {server: Asker(stock, names[server], start_s=self.start_s) for server in stock.servers}
        self.lives = {
            server: Lives(self.clients[server], held, names[server], self.askers[server], start_s=self.start_s)
            for server, held in stock.servers.items()
        }
        self.kinds = {row.kind for row in self.rows}
        (folder / START).write_text(str(self.start_s))

    def note(self, outcome: Outcome) -> None:
        self._outcomes.write(to_line(outcome))


def _current_versions(client: httpx.Client) -> dict[str, str]:
    """An earlier run over the same servers may have moved names."""
    listed = client.get("/adapters", params={"limit": 1000}).raise_for_status().json()["adapters"]
    return {adapter["name"]: adapter["version"] for adapter in listed}


class PlannedUser(User):  # type: ignore[misc]
    """One of each kind walks through the rows of its kind, with a greenlet for every request that is under way."""

    abstract = True
    fixed_count = 1
    kind: str

    @task  # type: ignore[untyped-decorator]
    def keep_to_the_trace(self) -> None:
        run: Run = self.environment.load_test
        under_way = Group()
        for row in run.rows:
            if row.kind == self.kind:
                gevent.sleep(max(run.start_s + row.offset_s - time.monotonic(), 0))
                under_way.spawn(self._note_all, run, row)
        under_way.join()
        run.kinds.discard(self.kind)
        if not run.kinds:
            self.environment.runner.quit()
        raise StopUser

    def _note_all(self, run: Run, row: AnyRow) -> None:
        for outcome in _ask(run, row):
            run.note(outcome)
            is_failure = outcome.ending in ("wrong", "lost")
            self.environment.events.request.fire(
                request_type=self.kind,
                name=outcome.action,
                response_time=outcome.total_s * 1e3,
                response_length=0,
                context={},
                exception=RuntimeError(f"{outcome.ending}: {outcome.detail}") if is_failure else None,
            )


class TextUser(PlannedUser):
    kind = "text"


class ImageUser(PlannedUser):
    kind = "image"


class UploadUser(PlannedUser):
    kind = "upload"


def _ask(run: Run, row: AnyRow) -> Iterable[Outcome]:
    match row:
        case TextRow():
            return [run.askers["text"].text(run.clients["text"], row)]
        case ImageRow():
            return [run.askers["pictures"].image(run.clients["pictures"], row)]
        case UploadRow():
            return run.lives[row.server].live(row)
        case _:
            assert_never(row)
