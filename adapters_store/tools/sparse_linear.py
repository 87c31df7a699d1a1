"""Linear layers with a trained sparse delta.

The backward pass computes the weight's gradient at the positions alone, as a sampled product of the output's gradient
and the input (``torch.sparse.sampled_addmm``): not even the gradient has the size of the weight.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters_store.tools.sparse_layer import SparseLayer

LINEAR = (nn.Linear, Conv1D)  # of GPT-2: a linear layer whose weight lies as (in, out), nn.Linear to all types here


class SparseLinear(SparseLayer):
    """Its weight is (out, in) or, of a Conv1D, (in, out)."""

    def __init__(self, base_layer: nn.Module, positions: Tensor) -> None:
        super().__init__(base_layer, positions)
        self._pattern = _pattern(self.positions, self.weight.shape)

    def output(self, inputs: Tensor, delta: Tensor) -> Tensor:
        product: Tensor = _SparselyTrainedProduct.apply(  # type: ignore[no-untyped-call]
            inputs, delta, self.base_layer, self._pattern
        )
        return product


class SparseDoraLinear(SparseLinear):
    """SHiRA-DoRA: magnitude and direction trained apart (DoRA, arXiv 2402.09353, section 4), seen through the mask.

    With U = W0 + M ⊙ V and one ``magnitude`` m per output row, the weight at a position of the mask is
    m · U / ‖U‖ of its row, elsewhere W0: what is served is an ordinary sparse delta. m starts at ‖W0‖, so the delta
    starts at 0; as in DoRA (section 4.3), no gradient flows through the norm. A row that is zero all over never trains.
    """

    base_squares: Tensor

    def __init__(self, base_layer: nn.Module, positions: Tensor) -> None:
        super().__init__(base_layer, positions)
        if isinstance(base_layer, Conv1D):
            raise ValueError("weight: module: expected an nn.Linear for DoRA, got Conv1D")
        squares = torch.stack([row.detach().float().square().sum() for row in self.weight])  # (out,)
        self.register_buffer("base_squares", squares, persistent=False)
        self.magnitude = nn.Parameter(squares.sqrt())

    def delta(self) -> Tensor:
        base = self.displaced.float()
        direction = base + self.values  # (k,)
        rows = self.positions // self.weight.shape[1]
        with torch.no_grad():
            squares = self.base_squares.index_add(0, rows, direction.square() - base.square())
            norm = squares.clamp(min=torch.finfo(torch.float32).tiny).sqrt()  # (out,)
        return (self.magnitude / norm)[rows] * direction - base

    def trained(self) -> dict[str, nn.Parameter]:
        return {"values": self.values, "magnitude": self.magnitude}


class _SparselyTrainedProduct(torch.autograd.Function):
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
