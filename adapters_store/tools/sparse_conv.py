"""Convolutions with a trained sparse delta.

The whole weight gradient of one layer exists for a moment, while its backward runs, and all but the positions is
dropped: the libraries' dense kernel is faster than gathering the patches that a sampled product would need.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from adapters_store.tools.sparse_layer import SparseLayer


class SparseConv2d(SparseLayer):
    """Its weight is (out, in / groups, height, width)."""

    def output(self, inputs: Tensor, delta: Tensor) -> Tensor:
        layer = cast("nn.Conv2d", self.base_layer)
        weight = weight_of_delta(delta, layer.weight, self.positions)
        output: Tensor = layer._conv_forward(inputs, weight, layer.bias)
        return output


def weight_of_delta(delta: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
    """The weight as it lies in memory, as a function of the delta written into it at ``positions``."""
    written: Tensor = _WeightOfDelta.apply(delta, weight, positions)  # type: ignore[no-untyped-call]
    return written


class _WeightOfDelta(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return grads[0].take(positions).float(), None, None
