"""The loss of a denoiser: how far its answer is from what it should say of noised pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adapters_store.tools.pictures.draws import Draws
from adapters_store.tools.pictures.families import Family
from adapters_store.tools.pictures.noising import Noising

CAPTIONS_AT_ONCE = 16


class DenoisingLoss(nn.Module):
    """``components`` by name, so that parameters have the names that the base gives them; ``captions`` are all there
    are, encoded once unless ``trains_text``. The loss is a plain function of its inputs: nothing is drawn in here."""

    def __init__(
        self,
        components: nn.ModuleDict,
        family: Family,
        noising: Noising,
        captions: list[str],
        *,
        trains_text: bool,
    ) -> None:
        super().__init__()
        for name, component in components.items():
            self.add_module(name, component)
        self.family = family
        self.noising = noising
        self.captions = captions
        self.dtype = next(components.parameters()).dtype
        self._encoded = None if trains_text else _encode_all(family, captions)

    def forward(
        self, latents: Tensor, noise: Tensor, fraction: Tensor, caption: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """A batch of ``Draws``: the mean over the batch of the squared errors, weighed."""
        noised = self.noising.noised(latents, noise, fraction)
        predicted = self.family.predict(noised.latents.to(self.dtype), noised.timesteps, self._conditions(caption))
        errors = (predicted.float() - noised.target).square().mean(dim=(1, 2, 3))  # (batch,)
        return {"loss": (noised.weight * weight * errors).mean()}

    def _conditions(self, caption: Tensor) -> dict[str, Tensor]:
        if self._encoded is None:
            return self.family.encode([self.captions[number] for number in caption.tolist()])
        return {name: rows[caption.to(rows.device)] for name, rows in self._encoded.items()}


@torch.no_grad()
def mean_denoising_loss(model: nn.Module, draws: Draws, *, batch_size: int) -> float:
    """Over all draws. Runs on the model's device."""
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for batch in DataLoader(draws, batch_size=batch_size):
        loss: Any = model(**{field: tensor.to(device) for field, tensor in batch.items()})["loss"]
        total += float(loss) * len(batch["caption"])
    return total / len(draws)


@torch.no_grad()
def _encode_all(family: Family, captions: list[str]) -> dict[str, Tensor]:
    starts = range(0, len(captions), CAPTIONS_AT_ONCE)
    parts = [family.encode(captions[start : start + CAPTIONS_AT_ONCE]) for start in starts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
