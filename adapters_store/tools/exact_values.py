"""Values V such that the word served, round_to_weight_dtype(fp32(W0) + fp32(V)), is the weight wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactValues:
    """``values`` (n,); an infinity where the dtype cannot hold the difference. ``largest_error`` is that of the served
    word, over the ``num_inexact`` entries."""

    values: Tensor
    num_inexact: int
    largest_error: float


def exact_values(w0: Tensor, w1: Tensor, dtype: torch.dtype) -> ExactValues:
    """For finite weights (n,) of one dtype the values nearest to W1 − W0, and how many of them do not serve W1.

    In fp32 those are the weights that became so small beside W0 that the step of V is wider than theirs (1 → 1e-10).
    A neighbour of V cannot repair one: where rounding ties, V and its neighbour both round to W1 or neither does."""
    values = (w1.double() - w0.double()).to(dtype)
    served = (w0.float() + values.float()).to(w0.dtype)
    errors = (served.double() - w1.double()).abs()
    return ExactValues(
        values=values,
        num_inexact=int(errors.count_nonzero()),
        largest_error=float(errors.max()),
    )
