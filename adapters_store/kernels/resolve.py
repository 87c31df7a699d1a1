"""From the names in an adapter's table to the tensors of a loaded model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adapters_store.adapter import WeightTable
from adapters_store.errors import BlendRejected


def resolve(tensors: Mapping[str, Tensor], table: WeightTable) -> list[Tensor]:
    """Those that the table names, in its order; several names may lead to one storage (tied weights).

    Raises BlendRejected for a name or shape that is not there, or two names of one storage."""
    named: dict[int, str] = {}
    for entry in table:
        weight = tensors.get(entry.name)
        if weight is None:
            raise BlendRejected(f"{entry.name}: the loaded model has no weight of this name to write to")
        if tuple(weight.shape) != entry.shape:
            raise BlendRejected(
                f"{entry.name}: the adapter expects shape {entry.shape}, the loaded weight has {tuple(weight.shape)}"
            )
        other = named.setdefault(weight.data_ptr(), entry.name)
        if other != entry.name:
            raise BlendRejected(f"{entry.name} and {other} are tied to one weight; an adapter may name one of them")
    return [tensors[entry.name] for entry in table]
