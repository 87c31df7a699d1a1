"""One fault over one base: what the fault is given, and the laws it is held to.

A fault calls ``begin`` with its servers, breaks something in one or several phases while ``load`` runs, and calls
``finish``. The laws: nothing is lost or wrong; nothing is refused, except as the phase allows; every acknowledged name,
version and byte is there and every deleted one is not; no temporary file is left; the base's digest and the seeded
answers are what they were; the server answers again in the stated time.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic

from loadtest.chaos import audit
from loadtest.chaos.alias_book import AliasBook, upload_of
from loadtest.chaos.bases import Base, Upload
from loadtest.chaos.ledger import Counts, Ledger, Outcome
from loadtest.chaos.sender import Sender
from loadtest.chaos.store_scan import leftovers, scan_store
from loadtest.chaos.traffic import Load, traffic
from loadtest.live_server import LiveServer, wait_until

log = logging.getLogger(__name__)
NUM_STABLE = 3
RESTART_S = 90.0  # the longest a server may take to answer again after it was started, on a busy machine
LEFTOVERS_GONE_S = 5.0
AGREE_S = 15.0  # the longest two replicas may take to agree once nothing changes


@dataclass(slots=True, kw_only=True)
class Phase:
    """What one part of a fault did, and what became of the requests meanwhile: known when it has ended."""

    name: str
    what: str = ""
    may_refuse: Collection[str] = ()
    counts: Counts = field(default_factory=Counts)
    refusals: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``hold_s``: how long each state of a fault lasts under load."""

    seed: int = 0
    num_kills: int = 50
    hold_s: float = 5.0


class Trial:
    """``problems``: every law that was broken, as sentences."""

    def __init__(self, fault: str, base: Base, directory: Path, settings: Settings) -> None:
        self.fault, self.base, self.settings = fault, base, settings
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.dice = random.Random(f"{settings.seed} {fault} {base.name}")
        self.ledger = Ledger()
        self.book = AliasBook()
        self.phases: list[Phase] = []
        self.problems: list[str] = []
        self.uploads = base.uploads(directory / "uploads", seed=settings.seed)
        self.others: list[Upload] = []  # which the fault itself uploads
        self.stable = {f"stable-{number}": self.uploads[4 * number].version for number in range(NUM_STABLE)}
        self.digest_before = self.digest_after = ""
        self._before: audit.Before | None = None

    def run(self, fault: Callable[[Trial], None]) -> None:
        """A fault that ends early is a broken law like any other, its story in the log."""
        try:
            fault(self)
        except Exception as error:
            log.exception("%s, %s", self.fault, self.base.name)
            self.problems.append(f"it ended early: {error!r}")
        self.problems += self.ledger.incidents

    def server(self, name: str = "data", *options: str, redis: str = "off", prefix: Sequence[str] = ()) -> LiveServer:
        """``prefix``: a command that runs the server's, as ``env`` does."""
        live = LiveServer(self.directory / name, *self.base.options, *options, redis=redis)
        live.command = [*prefix, *live.command]
        return live

    def begin(self, live: LiveServer) -> None:
        """Uploads the adapters that stay, and notes what the server answers now."""
        paths = {upload.version: upload.path for upload in self.uploads}
        with (
            self.phase("begin", "the adapters that stay; digest, seeded answers"),
            Sender(str(live.client.base_url), self.ledger) as sender,
        ):
            for name, version in self.stable.items():
                outcome = sender.upload(name, paths[version]).outcome
                self.expect(outcome is Outcome.ANSWERED, f"the first upload of {name}: {outcome}")
                self.book.acknowledge(name, upload_of(version))
            self._before = audit.describe(live, self.base, sorted(self.stable))
            self.digest_before = self._before.digest

    def load(self, *lives: LiveServer, num_writers: int = 2) -> AbstractContextManager[None]:
        shared = Load(
            base=self.base,
            uploads=self.uploads,
            stable=self.stable,
            ledger=self.ledger,
            book=self.book,
            seed=self.dice.randrange(2**32),
        )
        return traffic(shared, [str(live.client.base_url) for live in lives], num_writers=num_writers)

    @contextmanager
    def phase(self, name: str, what: str, *, may_refuse: Collection[str] = ()) -> Iterator[Phase]:
        """What the ledger gets within it belongs to it. A refusal with any other code is a broken law."""
        phase = Phase(name=name, what=what, may_refuse=may_refuse)
        started_s = monotonic()
        self.ledger.take_counts()
        try:
            yield phase
        finally:
            phase.seconds = monotonic() - started_s
            phase.counts, phase.refusals = self.ledger.take_counts()
            self.phases.append(phase)
            log.info("%s, %s, %s: %s in %.1f s", self.fault, self.base.name, name, tell(phase.counts), phase.seconds)
            expected = " or ".join(sorted(phase.may_refuse)) or "nothing"
            self.expect(
                set(phase.refusals) <= set(phase.may_refuse),
                f"{name}: refused {dict(phase.refusals)}, expected {expected}",
            )

    def hold(self, seconds: float | None = None) -> None:
        """Lets the load run."""
        Event().wait(self.settings.hold_s if seconds is None else seconds)

    def expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.problems.append(otherwise)
            log.error("%s, %s: %s", self.fault, self.base.name, otherwise)

    def restart(self, live: LiveServer, phase: Phase) -> None:
        """On the same data; the ended process is given up."""
        started_s = monotonic()
        live.start()
        self.recovered(phase, monotonic() - started_s, limit_s=RESTART_S)
        self.ledger.expect_running()

    def recovered(self, phase: Phase, seconds: float, *, limit_s: float) -> None:
        phase.recovery_s.append(seconds)
        self.expect(seconds <= limit_s, f"{phase.name}: back after {seconds:.1f} s, expected {limit_s:g} s at most")

    def agree(self, lives: Sequence[LiveServer]) -> bool:
        """Every server has heard of all changes."""
        return all(audit.is_as_written(live, self.book) for live in lives)

    def check_names(self, live: LiveServer, *, lightly: bool = False) -> None:
        """All that was acknowledged; ``lightly`` downloads a few only."""
        uploads = [*self.uploads, *self.others]
        for thing, problem in audit.missing(live, self.book, uploads, dice=self.dice if lightly else None).items():
            self.ledger.miss(thing, problem)
        with suppress(TimeoutError):  # what a transfer used goes just after its last byte
            wait_until(lambda: not leftovers(live.data_dir), LEFTOVERS_GONE_S)
        for problem in leftovers(live.data_dir):
            self.expect(False, problem)

    def check_base(self, live: LiveServer) -> None:
        assert self._before is not None, "begin comes first"  # noqa: S101
        now = audit.describe(live, self.base, sorted(self.stable))
        self.digest_after = now.digest
        self.problems += audit.differences(self._before, now)

    def finish(self, *lives: LiveServer) -> None:
        """Every law, then a stop, then a scan of each data directory. Several servers must agree on every name."""
        with self.phase("audit", "every name, version and byte, the base, seeded answers; stop; scan of the store"):
            if len(lives) > 1:
                wait_until(lambda: self.agree(lives), AGREE_S)
            for live in lives:
                self.check_names(live)
                self.check_base(live)
            for live in lives:
                self.expect(live.stop() == 0, "the server's exit code is not 0")
                for problem in scan_store(live.data_dir):
                    self.expect(False, f"{live.data_dir.name}: {problem}")


def tell(counts: Counts) -> str:
    told = [f"{count} {outcome}" for outcome, count in sorted(counts.items()) if count]
    return ", ".join([f"{counts.sent} sent", *told])
