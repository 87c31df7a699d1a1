"""Train a sparse delta in place: one parameter of values per linear layer, nothing dense beside the base.

The effective weight is the base weight itself, with ``round(fp32(W0) + values)`` written at the index set's
positions before the forward pass reads it. The gradient that reaches the weight is dense for a moment; only what
lies on the positions is kept, so the optimiser's state is as sparse as the adapter.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters_store.adapter import IndexSet
from adapters_store.format.packing import unpack_positions


class SparseLinear(nn.Module):
    """A frozen linear layer that trains ``values``, fp32 (k,), at flat ``positions`` of its weight, int64 (k,)."""

    positions: Tensor
    displaced: Tensor

    def __init__(self, linear: nn.Linear, positions: Tensor) -> None:
        super().__init__()
        weight = linear.weight
        if not weight.is_contiguous():
            raise ValueError(f"weight: layout: expected contiguous, got strides {weight.stride()}")
        positions = positions.to(weight.device)
        self.linear = linear
        self.values = nn.Parameter(torch.zeros(positions.numel(), dtype=torch.float32, device=weight.device))
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("displaced", weight.detach().flatten()[positions], persistent=False)
        self._written: int | None = None  # the version of ``values`` that the weight holds

    def forward(self, inputs: Tensor) -> Tensor:
        self.write_()
        weight: Tensor = _EffectiveWeight.apply(self.values, self.linear.weight, self.positions)  # type: ignore[no-untyped-call]
        return F.linear(inputs, weight, self.linear.bias)

    @torch.no_grad()
    def write_(self) -> None:
        """Brings the weight up to date with ``values``; leaves it alone when it is, so that a second forward before
        the backward does not disturb what autograd saved."""
        if self._written != self.values._version:
            words = (self.displaced.float() + self.values).to(self.displaced.dtype)
            self.linear.weight.detach().view(-1)[self.positions] = words
            self._written = self.values._version

    @torch.no_grad()
    def restore_(self) -> None:
        """Copies the displaced words back: the weight holds the base, bit for bit."""
        self.linear.weight.detach().view(-1)[self.positions] = self.displaced
        self._written = None


class _EffectiveWeight(torch.autograd.Function):
    """The weight as it lies in memory, as a function of the values written into it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.values_dtype = values.dtype
        return weight.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return grads[0].take(positions).to(ctx.values_dtype), None, None


class SparseParametrisation:
    """Every linear layer of ``index_set`` made sparse-trainable inside ``model``, all else frozen.

    A context manager: on leaving, the layers are the model's own again, their weights the base bit for bit, and
    ``requires_grad`` is as it was. Raises ValueError for a weight that is not an ``nn.Linear`` of ``model``.
    """

    def __init__(self, model: nn.Module, index_set: IndexSet) -> None:
        self.model = model
        self.index_set = index_set
        self.layers: dict[str, SparseLinear] = {}  # by weight name, in the order of the table
        self._frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        linears = {entry.name: linear_of_weight(model, entry.name, shape=entry.shape) for entry in index_set.table}
        for entry, positions in unpack_positions(index_set):
            self.layers[entry.name] = SparseLinear(linears[entry.name], positions)
        model.requires_grad_(False)
        for name, layer in self.layers.items():
            _replace(model, name, layer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def values(self) -> Tensor:
        """A copy of all values, fp32 (num_entries,), in the order of the index set."""
        return torch.cat([layer.values.detach().cpu() for layer in self.layers.values()])

    @torch.no_grad()
    def load_values(self, values: Tensor) -> None:
        """Overwrites all values, (num_entries,) in the order of the index set."""
        counts = [layer.values.numel() for layer in self.layers.values()]
        for layer, part in zip(self.layers.values(), torch.split(values, counts), strict=True):
            layer.values.copy_(part)

    def detach(self) -> None:
        """Gives the model back as it was. Harmless when called twice."""
        for name, layer in self.layers.items():
            layer.restore_()
            _replace(self.model, name, layer.linear)
        self.layers = {}
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad)
        self._frozen = []


def linear_of_weight(model: nn.Module, weight_name: str, *, shape: tuple[int, ...]) -> nn.Linear:
    """The ``nn.Linear`` of ``model`` whose weight bears this name. Raises ValueError naming what it found instead."""
    module_name, _, leaf = weight_name.rpartition(".")
    try:
        module = model.get_submodule(module_name)
    except AttributeError:
        module = None
    if leaf != "weight" or not isinstance(module, nn.Linear):
        got = "nothing" if module is None else type(module).__name__
        raise ValueError(f"{weight_name}: module: expected the weight of an nn.Linear, got {got}")
    if tuple(module.weight.shape) != shape:
        raise ValueError(f"{weight_name}: shape: expected {shape}, got {tuple(module.weight.shape)}")
    return module


def _replace(model: nn.Module, weight_name: str, module: nn.Module) -> None:
    model.set_submodule(weight_name.rpartition(".")[0], module)
