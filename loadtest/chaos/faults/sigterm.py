"""SIGTERM under load, once and twice: what was accepted is answered, the process ends with 0 within the stated time."""

from __future__ import annotations

import signal
from threading import Thread
from time import monotonic

from loadtest.chaos.sender import Sender, nothing_wrong
from loadtest.chaos.trial import Phase, Trial
from tests.e2e.live_server import LiveServer

DRAIN_S = 2.0
LAST_ANSWERS_S = 5.0  # what the server allows itself beyond the drain
AGAIN_AFTER_S = 0.3
OUTLASTING = {True: 200, False: 2000}  # the longest request there can be, in steps or tokens


def run(trial: Trial) -> None:
    with trial.server("data", "--drain-s", str(DRAIN_S), redis="embedded") as live:
        trial.begin(live)
        for num_signals in (1, 2):
            what = f"{num_signals} × SIGTERM under load, drain {DRAIN_S:g} s; then started again"
            with trial.phase(f"{num_signals} × SIGTERM", what) as phase:
                long = Thread(target=_ask_for_long, args=(trial, live))
                with trial.load(live):
                    trial.hold()
                    long.start()
                    trial.hold(0.5)
                    _stop(trial, live, num_signals, phase)
                long.join()
                trial.restart(live, phase)
                trial.check_names(live, lightly=True)
        trial.finish(live)


def _stop(trial: Trial, live: LiveServer, num_signals: int, phase: Phase) -> None:
    started_s = monotonic()
    trial.ledger.expect_stopping()
    for number in range(num_signals):
        trial.hold(AGAIN_AFTER_S if number else 0.0)
        live.process.send_signal(signal.SIGTERM)
    code = live.process.wait(timeout=60)
    took_s = monotonic() - started_s
    phase.what += f"; stopped in {took_s:.1f} s, exit code {code}"
    trial.expect(code == 0, f"exit code {code}, expected 0")
    limit_s = DRAIN_S + LAST_ANSWERS_S
    trial.expect(took_s <= limit_s, f"stopped in {took_s:.1f} s, expected {limit_s:g} s at most")
    trial.expect("Traceback" not in live.log_path.read_text(), f"a traceback in {live.log_path.name}")


def _ask_for_long(trial: Trial, live: LiveServer) -> None:
    body = trial.base.body([], length=OUTLASTING[trial.base.draws], stream=True)
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        sender.generate(body, nothing_wrong)
