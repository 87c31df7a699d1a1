"""One training step: forward, backward, AdamW. The same for every contender."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.tools.bench_train_contenders import LEARNING_RATE, TrainCase


class TrainStep:
    """Trains whatever of ``model`` requires a gradient."""

    def __init__(self, case: TrainCase, model: nn.Module) -> None:
        self._model = model
        self._is_on_cuda = case.device == "cuda"
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.num_trained = sum(parameter.numel() for parameter in trained)
        self._optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def __call__(self, batch: Tensor) -> float:
        """Seconds that the step took; the device is idle before and after. No gradient is left behind."""
        self._settle()
        started = time.perf_counter()
        self._model(input_ids=batch, labels=batch).loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._settle()
        return time.perf_counter() - started

    def _settle(self) -> None:
        if self._is_on_cuda:
            torch.cuda.synchronize()


def draw_batches(case: TrainCase, model: Any, number: int) -> list[Tensor]:
    """Random tokens, int64 (batch_size, sequence_length) each."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.batch_size, case.sequence_length)
    batches = (torch.randint(model.config.vocab_size, shape, generator=generator) for _ in range(number))
    return [batch.to(case.device) for batch in batches]
