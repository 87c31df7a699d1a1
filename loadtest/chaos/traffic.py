"""Continuous load: writers upload, move, delete and use names of their own; readers use the adapters that stay."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

from loadtest.chaos.alias_book import AliasBook, AliasState, Change, deletion, move_to, upload_of
from loadtest.chaos.bases import Base, Upload
from loadtest.chaos.ledger import Ledger, Outcome
from loadtest.chaos.sender import Reply, Sender

NAMES_PER_WRITER = 6
DEADLINE_MS = 50_000
LENGTH, LONG_LENGTH = 8, 60  # tokens or steps
AFTER_TROUBLE_S = 0.1  # before the next try of a server that is not there
AMBIGUOUS = {"draining", "engine_died"}  # the change may have happened before the server stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What users share. ``stable``: the versions of adapters that nobody changes, by name."""

    base: Base
    uploads: Sequence[Upload]
    stable: Mapping[str, str]
    ledger: Ledger
    book: AliasBook
    seed: int


@contextmanager
def traffic(load: Load, urls: Sequence[str], *, num_writers: int = 2) -> Iterator[None]:
    """Around each server so many writers and two readers, one of whom streams. Afterwards every request has ended.
    A writer's names are its own, and the same every time."""
    stop = Event()
    users: list[Callable[[], None]] = []
    for server, url in enumerate(urls):
        users += [_Writer(load, url, f"w{server}{number}", stop).run for number in range(num_writers)]
        users += [_Reader(load, url, f"r{server}{number}", stop, streams=bool(number)).run for number in range(2)]
    failures: list[BaseException] = []
    threads = [Thread(target=_guarded, args=(user, failures)) for user in users]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _guarded(user: Callable[[], None], failures: list[BaseException]) -> None:
    try:
        user()
    except BaseException as error:
        failures.append(error)


class _User(ABC):
    def __init__(self, load: Load, url: str, name: str, stop: Event) -> None:
        self.load, self.url, self.name, self.stop = load, url, name, stop
        self.dice = random.Random(f"{load.seed} {name}")

    def run(self) -> None:
        with Sender(self.url, self.load.ledger) as sender:
            while not self.stop.is_set():
                if self.act(sender).outcome is not Outcome.ANSWERED:
                    self.stop.wait(AFTER_TROUBLE_S)

    @abstractmethod
    def act(self, sender: Sender) -> Reply: ...


class _Reader(_User):
    def __init__(self, load: Load, url: str, name: str, stop: Event, *, streams: bool) -> None:
        super().__init__(load, url, name, stop)
        self.streams = streams

    def act(self, sender: Sender) -> Reply:
        names = self.dice.sample(sorted(self.load.stable), self.dice.choice([0, 1, 1, 2]))
        body = self.load.base.body(
            names, length=LONG_LENGTH if self.streams else LENGTH, stream=self.streams, deadline_ms=DEADLINE_MS
        )
        return sender.generate(body, of_blend({name: self.load.stable[name] for name in names}))


class _Writer(_User):
    def act(self, sender: Sender) -> Reply:
        name = f"{self.name}-{self.dice.randrange(NAMES_PER_WRITER)}"
        state = self.load.book.certain(name)
        if state is None or state.version is None:
            return self.upload(sender, name)
        actions = [self.upload, self.move, self.delete, self.use]
        [action] = self.dice.choices(actions, weights=[4, 2, 2, 2])
        return action(sender, name)

    def upload(self, sender: Sender, name: str) -> Reply:
        chosen = self.dice.choice(self.load.uploads)
        reply = sender.upload(name, chosen.path, self.of_change(name, chosen.version))
        return self.changed(name, upload_of(chosen.version), reply)

    def move(self, sender: Sender, name: str) -> Reply:
        version = self.dice.choice(self.state(name).history)
        return self.changed(name, move_to(version), sender.move(name, version, self.of_change(name, version)))

    def delete(self, sender: Sender, name: str) -> Reply:
        return self.changed(name, deletion, sender.delete(name))

    def use(self, sender: Sender, name: str) -> Reply:
        version = self.state(name).version
        return sender.generate(self.load.base.body(name, deadline_ms=DEADLINE_MS), of_blend({name: str(version)}))

    def state(self, name: str) -> AliasState:
        state = self.load.book.certain(name)
        assert state is not None  # noqa: S101  (act saw to it, and the name is ours alone)
        return state

    def of_change(self, name: str, version: str) -> Callable[[dict[str, Any]], str | None]:
        def check(answer: dict[str, Any]) -> str | None:
            if answer["version"] != version:
                return f"{name}: expected {version}, got {answer['version']}"
            if not self.load.book.observe_revision(name, answer["revision"]):
                return f"{name}: revision {answer['revision']} is not above the one before"
            return None

        return check

    def changed(self, name: str, change: Change, reply: Reply) -> Reply:
        return entered(self.load.book, name, change, reply)


def entered(book: AliasBook, name: str, change: Change, reply: Reply) -> Reply:
    """Enters the change as far as the reply, which it returns, tells whether it happened."""
    match reply.outcome:
        case Outcome.ANSWERED:
            book.acknowledge(name, change)
        case Outcome.REFUSED if reply.code == "adapter_in_use":  # deleted all the same
            book.acknowledge(name, change)
        case Outcome.REFUSED if reply.code not in AMBIGUOUS:
            pass
        case _:
            book.leave_open(name, change)
    return reply


def of_blend(versions: Mapping[str, str]) -> Callable[[dict[str, Any]], str | None]:
    """The receipt names these adapters, all of them, at these versions."""

    def check(answer: dict[str, Any]) -> str | None:
        applied = {adapter["name"]: adapter["version"] for adapter in answer["receipt"]["adapters"]}
        return None if applied == versions else f"asked for {versions}, the receipt names {applied}"

    return check
