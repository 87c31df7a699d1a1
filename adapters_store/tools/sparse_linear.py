"""Train a sparse delta in place: a few parameters per linear layer, nothing dense beside the base.

The effective weight is the base weight itself, with ``round(fp32(W0) + delta)`` written at the index set's positions
before the forward pass reads it. The backward pass computes the weight's gradient at those positions alone, as a
sampled product of the output's gradient and the input (``torch.sparse.sampled_addmm``): no gradient, copy or optimiser
state has the size of the weight.
"""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters_store.adapter import IndexSet
from adapters_store.format.packing import unpack_positions

LINEAR = (nn.Linear, Conv1D)  # of GPT-2: a linear layer whose weight lies as (in, out), nn.Linear to all types here


class SparseLinear(nn.Module):
    """A frozen linear layer that trains ``values``, fp32 (k,), the delta at flat ``positions``, int64 (k,) ascending,
    of its weight, (out, in) or, of a Conv1D, (in, out)."""

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
        self._pattern = _pattern(positions, weight.shape)
        self._written: tuple[int, ...] | None = None  # the versions of the parameters that the weight holds

    def forward(self, inputs: Tensor) -> Tensor:
        delta = self.delta()
        self._write_(delta)
        output: Tensor = _SparselyTrainedProduct.apply(  # type: ignore[no-untyped-call]
            inputs, delta, self.linear, self._pattern
        )
        return output

    def delta(self) -> Tensor:
        """W − W0 at the positions, fp32 (k,), as a function of the trained parameters."""
        return self.values

    def trained(self) -> dict[str, nn.Parameter]:
        return {"values": self.values}

    @property
    def weight(self) -> Tensor:
        """For models that ask a layer for its weight's dtype."""
        return self.linear.weight

    @torch.no_grad()
    def _write_(self, delta: Tensor) -> None:
        """Brings the weight up to date. Autograd is told of it when the parameters changed, so that a backward through
        an older forward fails, and not otherwise, so that a second forward before the backward disturbs nothing. (It is
        written in any case: torch's fused optimisers change parameters without a new version.)"""
        versions = tuple(parameter._version for parameter in self.trained().values())
        weight = self.linear.weight.data if self._written == versions else self.linear.weight.detach()
        weight.view(-1)[self.positions] = (self.displaced.float() + delta).to(self.displaced.dtype)
        self._written = versions

    @torch.no_grad()
    def restore_(self) -> None:
        """Copies the displaced words back: the weight holds the base, bit for bit."""
        self.linear.weight.detach().view(-1)[self.positions] = self.displaced
        self._written = None


class SparseDoraLinear(SparseLinear):
    """SHiRA-DoRA: magnitude and direction trained apart (DoRA, arXiv 2402.09353, section 4), seen through the mask.

    With U = W0 + M ⊙ V and one ``magnitude`` m per output row, the weight at a position of the mask is
    m · U / ‖U‖ of its row, elsewhere W0: what is served is an ordinary sparse delta. m starts at ‖W0‖, so the delta
    starts at 0; as in DoRA (section 4.3), no gradient flows through the norm. A row that is zero all over never trains.
    """

    base_squares: Tensor

    def __init__(self, linear: nn.Linear, positions: Tensor) -> None:
        super().__init__(linear, positions)
        if isinstance(linear, Conv1D):
            raise ValueError("weight: module: expected an nn.Linear for DoRA, got Conv1D")
        squares = torch.stack([row.detach().float().square().sum() for row in linear.weight])  # (out,)
        self.register_buffer("base_squares", squares, persistent=False)
        self.magnitude = nn.Parameter(squares.sqrt())

    def delta(self) -> Tensor:
        base = self.displaced.float()
        direction = base + self.values  # (k,)
        rows = self.positions // self.linear.weight.shape[1]
        with torch.no_grad():
            squares = self.base_squares.index_add(0, rows, direction.square() - base.square())
            norm = squares.clamp(min=torch.finfo(torch.float32).tiny).sqrt()  # (out,)
        return (self.magnitude / norm)[rows] * direction - base

    def trained(self) -> dict[str, nn.Parameter]:
        return {"values": self.values, "magnitude": self.magnitude}


class _SparselyTrainedProduct(torch.autograd.Function):
    """What the layer computes, differentiable in the inputs and in the delta that its weight already holds."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, delta: Tensor, linear: nn.Linear, pattern: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, linear.weight)
        ctx.pattern = pattern
        ctx.is_transposed = isinstance(linear, Conv1D)
        weight = linear.weight.T if ctx.is_transposed else linear.weight
        return F.linear(inputs, weight, linear.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inputs, weight = ctx.saved_tensors
        (grad,) = grads  # (…, out)
        inputs_grad = delta_grad = None
        if ctx.needs_input_grad[0]:
            inputs_grad = grad @ (weight.T if ctx.is_transposed else weight)
        if ctx.needs_input_grad[1]:
            tokens = (
                inputs.reshape(-1, inputs.shape[-1]),
                grad.reshape(-1, grad.shape[-1]),
            )  # (tokens, in), (tokens, out)
            columns, rows = tokens if not ctx.is_transposed else tokens[::-1]
            rows = rows.float().t().contiguous()  # the weight's rows first
            delta_grad = torch.sparse.sampled_addmm(ctx.pattern, rows, columns.float(), beta=0.0).values()
        return inputs_grad, delta_grad, None, None


class SparseParametrisation:
    """Every linear layer of ``index_set`` made sparse-trainable inside ``model``, all else frozen.

    A context manager: on leaving, the layers are the model's own again, their weights the base bit for bit, and
    ``requires_grad`` is as it was. Raises ValueError for a weight that is not that of a linear layer of ``model``.
    """

    def __init__(self, model: nn.Module, index_set: IndexSet, *, dora: bool = False) -> None:
        self.model = model
        self.index_set = index_set
        self.layers: dict[str, SparseLinear] = {}  # by weight name, in the order of the table
        self._frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        linears = {entry.name: linear_of_weight(model, entry.name, shape=entry.shape) for entry in index_set.table}
        for name, linear in linears.items():
            _check_untied(model, name, linear.weight)
        kind = SparseDoraLinear if dora else SparseLinear
        for entry, positions in unpack_positions(index_set):
            self.layers[entry.name] = kind(linears[entry.name], positions)
        model.requires_grad_(False)
        for name, layer in self.layers.items():
            _replace(model, name, layer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @torch.no_grad()
    def delta(self) -> Tensor:
        """A copy of all deltas, fp32 (num_entries,), in the order of the index set, on the CPU."""
        return torch.cat([layer.delta().detach().cpu() for layer in self.layers.values()])

    @property
    def num_trained(self) -> int:
        return sum(parameter.numel() for layer in self.layers.values() for parameter in layer.trained().values())

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
    """The linear layer of ``model`` whose weight bears this name. Raises ValueError naming what it found instead."""
    module_name, _, leaf = weight_name.rpartition(".")
    try:
        module = model.get_submodule(module_name)
    except AttributeError:
        module = None
    if leaf != "weight" or not isinstance(module, LINEAR):
        got = "nothing" if module is None else type(module).__name__
        raise ValueError(f"{weight_name}: module: expected the weight of an nn.Linear, got {got}")
    if tuple(module.weight.shape) != shape:
        raise ValueError(f"{weight_name}: shape: expected {shape}, got {tuple(module.weight.shape)}")
    return cast("nn.Linear", module)


def _check_untied(model: nn.Module, name: str, weight: Tensor) -> None:
    """A place that reads the weight beside this layer would go without its share of the gradient."""
    others = [
        other
        for other, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight and other != name
    ]
    if others:
        raise ValueError(f"{name}: tied: expected a weight of one layer alone, got one that is {others[0]} as well")


def _pattern(positions: Tensor, shape: torch.Size) -> Tensor:
    """The positions as a matrix in compressed rows; its values, all 0, are never read."""
    num_rows, num_columns = shape
    rows = torch.arange(num_rows + 1, device=positions.device) * num_columns
    starts = torch.searchsorted(positions, rows).to(torch.int32)
    columns = (positions % num_columns).to(torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            starts,
            columns,
            torch.zeros(len(positions), device=positions.device),
            (num_rows, num_columns),
            check_invariants=True,
        )


def _replace(model: nn.Module, weight_name: str, module: nn.Module) -> None:
    model.set_submodule(weight_name.rpartition(".")[0], module)
