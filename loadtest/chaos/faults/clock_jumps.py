"""The wall clock jumps under load: no deadline, no order of changes and no answer depends on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from loadtest.chaos.alias_book import upload_of
from loadtest.chaos.ledger import Outcome
from loadtest.chaos.sender import Sender, nothing_wrong
from loadtest.chaos.trial import Trial
from loadtest.chaos.wall_clock import WallClock
from loadtest.live_server import LiveServer

HOUR_S, DAY_S = 3600, 86_400
JUMPS = {"+1 h": HOUR_S, "−1 h": -HOUR_S, "+1 day": DAY_S, "−1 day": -DAY_S, "back": 0}
SHORT_DEADLINE_MS, ENDED_BY_S = 200, 5.0
LATE = {"deadline_exceeded", "deadline_unreachable"}
LONGER_THAN_THAT = {True: 200, False: 2000}  # steps or tokens
TOLERANCE = timedelta(seconds=30)


def run(trial: Trial) -> None:
    clock = WallClock(trial.directory)
    with trial.server("data", redis="embedded", prefix=clock.prefix) as live:
        trial.begin(live)
        for name, offset_s in JUMPS.items():
            what = "under load, requests in flight; a deadline; an upload"
            with trial.phase(f"clock {name}", what, may_refuse=LATE) as phase:
                with trial.load(live):
                    trial.hold(min(1.0, trial.settings.hold_s))
                    clock.set_offset(offset_s)
                    trial.hold()
                _deadline_passes(trial, live)
                _time_is_told(trial, live, offset_s)
                trial.check_names(live, lightly=True)
            trial.expect(
                phase.refusals.total() <= 1,
                f"clock {name}: refused {dict(phase.refusals)}, expected the one request with a short deadline",
            )
        with trial.phase("restart a day ago", "stopped, started with the clock 1 day behind the records") as phase:
            clock.set_offset(-DAY_S)
            live.stop()
            trial.restart(live, phase)
            with trial.load(live):
                trial.hold(min(1.0, trial.settings.hold_s))
        trial.finish(live)


def _deadline_passes(trial: Trial, live: LiveServer) -> None:
    """A request that cannot be done in its time is told so, soon."""
    body = trial.base.body([], length=LONGER_THAN_THAT[trial.base.draws], deadline_ms=SHORT_DEADLINE_MS)
    started_s = monotonic()
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        code = sender.generate(body, nothing_wrong).code
    took_s = monotonic() - started_s
    is_told = code in LATE and took_s < ENDED_BY_S
    trial.expect(is_told, f"a deadline of {SHORT_DEADLINE_MS} ms: {code} after {took_s:.1f} s")


def _time_is_told(trial: Trial, live: LiveServer, offset_s: int) -> None:
    """Proves that the clock did jump: an upload has the server's time."""

    def check(answer: dict[str, Any]) -> str | None:
        expected = datetime.now(UTC) + timedelta(seconds=offset_s)
        told = datetime.fromisoformat(answer["updated_at"])
        return None if abs(told - expected) < TOLERANCE else f"expected a time near {expected}, got {told}"

    upload = trial.dice.choice(trial.uploads)
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        if sender.upload("clocked", upload.path, check).outcome is Outcome.ANSWERED:
            trial.book.acknowledge("clocked", upload_of(upload.version))
