"""What can be done with a batch whose rows run with different blends, as a Protocol."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from adapters_store.kernels.bound import Bound
from adapters_store.kernels.linears import Linears, RowPlan
from adapters_store.kernels.rows import RowLayout, RowTargets


class RowKernels(Protocol):
    """Every method checks its arguments before it computes anything (ValueError names the argument).

    May be called on any thread while nobody writes the weights. The tensors of one call are on one device.
    """

    @property
    def name(self) -> str: ...

    def has_native_linear(self, dtype: torch.dtype) -> bool:
        """True if ``linear`` gives each row the same bits whatever the other rows are, and a patched group the bits of
        a switch. Where not, it is torch's product and a correction, which are alike within rounding only."""
        ...

    def layout(self, bound: Bound) -> RowLayout:
        """Row by row what ``bound`` holds block by block. Raises ValueError naming a weight that is not
        (out_features, in_features ≤ 65,536)."""
        ...

    def relative(self, blend: RowTargets | None, dominant: RowTargets) -> RowTargets:
        """What rows of ``blend`` (None: of the base) run with while another one, the dominant blend, is in the weights.

        ``dominant``: its layout with the words that it displaced. The result holds the union of the supports: the
        blend's word where it has one, the displaced one elsewhere."""
        ...

    def linear(
        self, x: Tensor, linears: Linears, plan: RowPlan, *, out_dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """x Wᵀ + bias for each weight, (rows, out_features) in x's dtype or float32, every row with its own blend.

        ``x`` (rows, in_features) contiguous. Accumulates in float32."""
        ...

    def correct_(self, y: Tensor, x: Tensor, weight: Tensor, plan: RowPlan) -> None:
        """Makes of y = x Wᵀ (rows, out_features), W being what is in the weights, every row's own product: adds
        x (target − W)ᵀ, the difference and the sum in float32; ``is_patched`` changes nothing. ``y`` in x's dtype or
        float32."""
        ...
