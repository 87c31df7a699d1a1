"""SIGTERM under load, once and twice: who was accepted is answered, who comes meanwhile is told so."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

from loadtest.chaos.sender import Reply, Sender, nothing_wrong
from loadtest.chaos.trial import Phase, Trial
from loadtest.live_server import LiveServer, wait_until

DRAIN_S = 1.0
LAST_ANSWERS_S = 5.0  # what the server allows itself beyond the drain
INTERPRETER_S = 30.0  # what Python may take to end after the server's last word, on a busy machine
AGAIN_AFTER_S = 0.3
MOST_TOKENS = 8000
OUTLASTING = {True: 200, False: MOST_TOKENS}  # the longest request there can be, in steps or tokens
STOPPED = "server.app: stopped"  # the server's last word


def run(trial: Trial) -> None:
    options = ("--drain-s", str(DRAIN_S), "--max-new-tokens", str(MOST_TOKENS))
    with trial.server("data", *options, redis="embedded") as live, ThreadPoolExecutor(1) as client:
        trial.begin(live)
        for num_signals in (1, 2):
            what = f"{num_signals} × SIGTERM under load, drain {DRAIN_S:g} s; then started again"
            with trial.phase(f"{num_signals} × SIGTERM", what, may_refuse={"draining"}) as phase:
                with trial.load(live):
                    trial.hold()
                    long = client.submit(_ask_for_long, trial, live)
                    trial.hold(0.5)
                    _stop(trial, live, num_signals, phase)
                _outlasts(trial, long, phase)
                trial.restart(live, phase)
                trial.check_names(live, lightly=True)
        trial.finish(live)


def _ask_for_long(trial: Trial, live: LiveServer) -> Reply:
    body = trial.base.body([], length=OUTLASTING[trial.base.draws], stream=True)
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        return sender.generate(body, nothing_wrong)


def _stop(trial: Trial, live: LiveServer, num_signals: int, phase: Phase) -> None:
    num_before = _log_of(live).count(STOPPED)
    started_s = monotonic()
    trial.ledger.expect_stopping()
    for number in range(num_signals):
        trial.hold(AGAIN_AFTER_S if number else 0.0)
        live.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _log_of(live).count(STOPPED) > num_before or live.process.poll() is not None)
    drained_s = monotonic() - started_s
    code = live.process.wait(timeout=60)
    ended_s = monotonic() - started_s
    phase.what += f"; stopped in {drained_s:.1f} s, the process in {ended_s:.1f} s, exit code {code}"
    trial.expect(code == 0, f"exit code {code}, expected 0")
    limit_s = DRAIN_S + LAST_ANSWERS_S
    trial.expect(drained_s <= limit_s, f"stopped in {drained_s:.1f} s, expected {limit_s:g} s at most")
    trial.expect(
        ended_s <= limit_s + INTERPRETER_S,
        f"the process ended in {ended_s:.1f} s, expected {limit_s + INTERPRETER_S:g} s at most",
    )
    trial.expect("Traceback" not in _log_of(live), f"a traceback in {live.log_path.name}")


def _outlasts(trial: Trial, long: Future[Reply], phase: Phase) -> None:
    """A request that was accepted, and cannot be done in the drain, is told so in its stream."""
    reply = long.result()
    phase.what += f"; the long request: {reply.code or reply.outcome}"
    trial.expect(reply.code == "draining", f"the long request: {reply.code or reply.outcome}, expected draining")


def _log_of(live: LiveServer) -> str:
    return live.log_path.read_text()
