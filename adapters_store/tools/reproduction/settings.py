"""What a reproduction can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters_store.tools.reproduction.plan import METHODS
from adapters_store.tools.train_options import TARGETS, Device

LORA_RANK = 4
LORA_ALPHA = 8
LORA_DROPOUT = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``data_dir`` holds a ``<domain>.txt`` for each domain. Cells and the report go to ``output_dir``, trained
    adapters to ``work_dir``. ``num_validation`` and ``num_test`` count sequences per domain."""

    model_dir: Path
    data_dir: Path
    output_dir: Path
    work_dir: Path
    steps: int = 96
    batch_size: int = 2
    sequence_length: int = 128
    num_validation: int = 16
    num_test: int = 24
    calibration_examples: int = 16  # of those trained on, for masks that rank by gradients
    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    seeds: tuple[int, ...] = (0, 1, 2)
    other_seeds: tuple[int, ...] = (0,)  # of the methods that are not main ones
    targets: tuple[str, ...] = TARGETS
    device: Device = "cpu"

    @property
    def cells_dir(self) -> Path:
        return self.output_dir / "cells"

    @property
    def num_tokens(self) -> int:
        """Training tokens of one run."""
        return self.steps * self.batch_size * self.sequence_length
