"""One layer that trains a few entries of its weight, nothing dense beside the base.

The effective weight is the base weight itself, with ``round(fp32(W0) + delta)`` written at the index set's positions
before the forward pass reads it. No copy and no optimiser state has the size of the weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class SparseLayer(nn.Module, ABC):
    """A frozen layer that trains ``values``, fp32 (k,), the delta at flat ``positions``, int64 (k,) ascending, of its
    weight."""

    positions: Tensor
    displaced: Tensor

    def __init__(self, base_layer: nn.Module, positions: Tensor) -> None:
        super().__init__()
        weight = base_layer.get_parameter("weight")
        if not weight.is_contiguous():
            raise ValueError(f"weight: layout: expected contiguous, got strides {weight.stride()}")
        positions = positions.to(weight.device)
        self.base_layer = base_layer
        self.values = nn.Parameter(torch.zeros(positions.numel(), dtype=torch.float32, device=weight.device))
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("displaced", weight.detach().flatten()[positions], persistent=False)
        self._written: tuple[int, ...] | None = None  # the versions of the parameters that the weight holds

    def forward(self, inputs: Tensor) -> Tensor:
        delta = self.delta()
        self._write_(delta)
        return self.output(inputs, delta)

    @abstractmethod
    def output(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """What the layer computes, differentiable in the inputs and in the delta that its weight already holds."""

    def delta(self) -> Tensor:
        """W − W0 at the positions, fp32 (k,), as a function of the trained parameters."""
        return self.values

    def trained(self) -> dict[str, nn.Parameter]:
        return {"values": self.values}

    @property
    def weight(self) -> nn.Parameter:
        """The base layer's own; models ask a layer for its weight's dtype."""
        return self.base_layer.get_parameter("weight")

    @torch.no_grad()
    def _write_(self, delta: Tensor) -> None:
        """Brings the weight up to date. Autograd is told of it when the parameters changed, so that a backward through
        an older forward fails, and not otherwise, so that a second forward before the backward disturbs nothing. (It is
        written in any case: torch's fused optimisers change parameters without a new version.)"""
        versions = tuple(parameter._version for parameter in self.trained().values())
        weight = self.weight.data if self._written == versions else self.weight.detach()
        weight.view(-1)[self.positions] = (self.displaced.float() + delta).to(self.displaced.dtype)
        self._written = versions

    @torch.no_grad()
    def restore_(self) -> None:
        """Copies the displaced words back: the weight holds the base, bit for bit."""
        self.weight.detach().view(-1)[self.positions] = self.displaced
        self._written = None
