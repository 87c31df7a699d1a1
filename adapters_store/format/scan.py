"""The validation scan over an adapter's entries, its faults told as refusals."""

from __future__ import annotations

from torch import Tensor

from adapters_store.adapter import WeightTable
from adapters_store.errors import AdapterRejected
from adapters_store.kernels import get_kernels


def check_indices(table: WeightTable, offsets: Tensor, indices: Tensor) -> None:
    """Offsets ascend from 0 to the number of entries and agree with the counts; the indices of each block are
    strictly ascending and inside the weight. CPU tensors. Raises AdapterRejected naming the first fault."""
    fault = get_kernels("cpu").scan_indices(table, offsets, indices)
    if fault is not None:
        raise AdapterRejected(
            fault.check,
            tensor=fault.weight or "offsets",
            expected=fault.expected,
            got=f"{fault.got} at position {fault.position}",
        )


def check_values(values: Tensor, *, tensor: str = "values") -> None:
    """Raises AdapterRejected naming the first value that is not finite."""
    position = get_kernels("cpu").scan_values(values)
    if position is not None:
        raise AdapterRejected(
            "finite", tensor=tensor, expected="finite values", got=f"{float(values[position])} at entry {position}"
        )
