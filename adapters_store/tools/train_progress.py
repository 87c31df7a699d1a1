"""How far training is and how the loss does: a bar on a terminal, log lines anywhere else."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

LOGGED_STEPS = 10
logger = logging.getLogger(__name__)


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """One tick per optimiser step; the loss is that of the step."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc="training", unit="step", disable=not sys.stderr.isatty())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}")
        if self._bar.disable and state.global_step % LOGGED_STEPS == 0:
            logger.info("step %d of %d: loss %.3f", state.global_step, state.max_steps, float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()
