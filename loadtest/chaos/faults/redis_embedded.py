"""The server's own Redis killed under load: it is started again and filled, and no request fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

import redis

from loadtest.chaos.filled import is_filled
from loadtest.chaos.trial import Trial
from loadtest.live_server import LiveServer, metric, wait_until

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
                wait_until(lambda killed=killed: _is_back(trial, live, killed))  # type: ignore[misc]
                trial.recovered(phase, monotonic() - started_s, limit_s=BACK_S)
        trial.finish(live)


def _is_back(trial: Trial, live: LiveServer, killed: int) -> bool:
    """Another process answers, the server holds its link to it up, and has told it the names that stay."""
    for process in _valkeys_of(live) - {killed}:
        try:
            with redis.Redis(unix_socket_path=f"/proc/{process}/cwd/valkey.sock") as client:
                if client.ping() and is_filled(client, trial.stable):
                    return metric(live.client, "shira_redis_up") == 1
        except redis.ConnectionError:  # it does not listen yet
            pass
    return False


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
