"""What every cell of one folder has in common; cells of different regimes are never compared."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from adapters_store.tools.reproduction.settings import LORA_ALPHA, LORA_DROPOUT, LORA_RANK, Settings


class Regime(BaseModel):
    """``base`` is the fingerprint of the checkpoint, ``texts`` the digest of each domain's file. The model is loaded in
    ``precision`` for training and measuring; trained values are float32 in the optimiser. ``sparsity`` gives a mask
    about as many entries as LoRA has parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    base: str
    texts: dict[str, str]
    targets: list[str]
    num_weights: int
    num_target_parameters: int
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    sparsity: float
    steps: int
    batch_size: int
    sequence_length: int
    num_tokens: int
    calibration_examples: int
    num_validation: int
    num_test: int
    precision: str = "bfloat16"
    schedule: str = "linear"

    def difference(self, other: Regime) -> tuple[str, object, object] | None:
        """The first field that differs, with both values."""
        for field in type(self).model_fields:
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                return field, mine, theirs
        return None


def regime_of(settings: Settings, *, base: str, texts: dict[str, str], shapes: list[tuple[int, ...]]) -> Regime:
    """``shapes`` of the target weights, (out, in) each."""
    num_target_parameters = sum(rows * columns for rows, columns in shapes)
    num_lora_parameters = sum(LORA_RANK * (rows + columns) for rows, columns in shapes)
    return Regime(
        model=settings.model_dir.name,
        base=base,
        texts=texts,
        targets=list(settings.targets),
        num_weights=len(shapes),
        num_target_parameters=num_target_parameters,
        lora_rank=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_dropout=LORA_DROPOUT,
        sparsity=num_lora_parameters / num_target_parameters,
        steps=settings.steps,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        num_tokens=settings.num_tokens,
        calibration_examples=settings.calibration_examples,
        num_validation=settings.num_validation,
        num_test=settings.num_test,
    )
