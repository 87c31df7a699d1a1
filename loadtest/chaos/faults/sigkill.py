"""SIGKILL at random moments under load, and a restart on the same data, again and again."""

from __future__ import annotations

import logging

from loadtest.chaos.trial import Trial

log = logging.getLogger(__name__)
EARLIEST_S, LATEST_S = 0.05, 2.0


def run(trial: Trial) -> None:
    num_kills = trial.settings.num_kills
    with trial.server("data", redis="embedded") as live:
        trial.begin(live)
        with trial.phase(
            "kill −9", f"{num_kills} kills at random moments under load, a light audit after each"
        ) as phase:
            for number in range(1, num_kills + 1):
                after_s = trial.dice.uniform(EARLIEST_S, LATEST_S)
                with trial.load(live):
                    trial.hold(after_s)
                    trial.ledger.expect_down()
                    live.kill()
                    trial.restart(live, phase)
                trial.check_names(live, lightly=True)
                log.info("kill %d of %d after %.2f s, back in %.1f s", number, num_kills, after_s, phase.recovery_s[-1])
        trial.finish(live)
