"""The server's own Redis killed under load: it is started again, and no request fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

from loadtest.chaos.ledger import Outcome
from loadtest.chaos.trial import Trial
from tests.e2e.live_server import LiveServer, wait_until

BACK_S = 10.0
NUM_KILLS = 3


def run(trial: Trial) -> None:
    with trial.server("data", redis="embedded") as live:
        trial.begin(live)
        with (
            trial.phase("embedded Redis killed", f"SIGKILL to the embedded server, {NUM_KILLS} times") as phase,
            trial.load(live),
        ):
            for _ in range(NUM_KILLS):
                trial.hold(trial.settings.hold_s / NUM_KILLS)
                [killed] = _valkeys_of(live)
                started_s = monotonic()
                os.kill(killed, signal.SIGKILL)
                wait_until(lambda killed=killed: bool(_valkeys_of(live) - {killed}))  # type: ignore[misc]
                trial.recovered(phase, monotonic() - started_s, limit_s=BACK_S)
        trial.expect(phase.counts[Outcome.REFUSED] == 0, f"refused {dict(phase.refusals)}, expected nothing")
        trial.finish(live)


def _valkeys_of(live: LiveServer) -> set[int]:
    """The process ids of the server's grandchildren: its own child is the shell that stands guard."""
    parents = {int(path.parent.name): _parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    guards = {child for child, parent in parents.items() if parent == live.process.pid}
    return {child for child, parent in parents.items() if parent in guards}


def _parent(stat: Path) -> int:
    try:
        state, parent = stat.read_text().rpartition(")")[2].split()[:2]
    except OSError:  # it has ended meanwhile
        return 0
    return 0 if state == "Z" else int(parent)
