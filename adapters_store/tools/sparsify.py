"""Dense deltas to a sparse adapter: the K largest magnitudes of each weight, and how much of the whole they carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.adapter import TORCH_DTYPES, Adapter, DTypeName, build_adapter
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.errors import TrainingRefused
from adapters_store.format import Positions, pack_positions
from adapters_store.tools.masks import num_kept, top_k


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWeight:
    """``num_nonzero`` and ``energy`` (the squared Frobenius norm) are of the dense delta, ``kept_energy`` of what is
    kept of it."""

    name: str
    numel: int
    num_nonzero: int
    count: int
    energy: float
    kept_energy: float

    @property
    def kept_share(self) -> float:
        """Of the squared norm; its root is the share of the norm itself."""
        return self.kept_energy / self.energy


def sparsify(
    deltas: Iterable[tuple[str, Tensor]], *, base: BaseDescription, sparsity: float
) -> tuple[Adapter, tuple[KeptWeight, ...]]:
    """K = max(1, floor(sparsity · numel)) of each weight, ties to the lower position, as masks count; never an element
    that is zero, so that a delta sparser than that is kept whole. Weights without a change are left out.

    ``deltas`` are (weight of the base, its whole delta), one at a time, in any order; values are float32. Raises
    TrainingRefused for deltas that are not finite or nothing but zeros."""
    rows: list[_Row] = []
    for name, delta in deltas:
        flat = delta.detach().flatten().to(torch.float32)  # (numel,)
        if not bool(flat.isfinite().all()):
            raise TrainingRefused("adapter", expected="a finite delta", got=f"NaN or infinity in {name}")
        if bool(flat.any()):
            rows.append(_largest(base.weights[name], flat, sparsity))
    if not rows:
        raise TrainingRefused("adapter", expected="an adapter that changes a weight", got="a delta of zeros")
    rows.sort(key=lambda row: row.figures.name.encode())
    index_set = pack_positions([row.positions for row in rows])
    values = torch.cat([row.values for row in rows])
    adapter = build_adapter(base=base.fingerprint, index_set=index_set, values=values)
    return adapter, tuple(row.figures for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    positions: Positions
    values: Tensor  # float32 (count,)
    figures: KeptWeight


def _largest(weight: BaseWeight, flat: Tensor, sparsity: float) -> _Row:
    num_nonzero = int(flat.count_nonzero())
    places = top_k(flat.abs(), min(num_kept(flat.numel(), sparsity), num_nonzero))
    values = flat[places]
    energy = float(flat.double().square().sum())
    is_whole = places.numel() == num_nonzero  # their sum in another order would differ in the last bit
    figures = KeptWeight(
        name=weight.name,
        numel=flat.numel(),
        num_nonzero=num_nonzero,
        count=places.numel(),
        energy=energy,
        kept_energy=energy if is_whole else float(values.double().square().sum()),
    )
    positions = Positions(name=weight.name, shape=weight.shape, dtype=_adaptable(weight), flat=places)
    return _Row(positions=positions, values=values, figures=figures)


def _adaptable(weight: BaseWeight) -> DTypeName:
    dtype = weight.adaptable_dtype
    if dtype is None:
        expected = f"{weight.name} in one of {', '.join(TORCH_DTYPES)}"
        raise TrainingRefused("base", expected=expected, got=f"{weight.dtype}, as it is stored")
    return dtype
