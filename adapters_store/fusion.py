"""Several adapters to one sparse delta on the union of their supports, and how likely they are to disturb each other.

With I the union, wᵢ the scales, Vᵢ the values and n how many adapters touch a position:

- ``sum``   Σ wᵢVᵢ
- ``mean``  Σ wᵢVᵢ / Σ wᵢ, over all members wherever they touch
- ``ram``   wV where n = 1; Σ wᵢVᵢ / Σ wᵢ over those that touch where n > 1 (arXiv 2601.13572)
- ``ties``  trim, elect, merge (Yadav et al. 2023, section 3), on uᵢ = wᵢVᵢ: each adapter keeps the ``density`` largest
  |V| of its own nonzeros in each weight (ties to the lower position; at least one); the sign of Σ uᵢ is elected; the
  result is the mean of the uᵢ that have that sign, 0 where the sum is 0

All arithmetic is float32: products rounded, then added in the order of the members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

import torch
from torch import Tensor

from adapters_store.adapter import Adapter, IndexSet
from adapters_store.blend import Fusion, check_fusion
from adapters_store.errors import BlendRejected
from adapters_store.kernels import Kernels, UnionMember
from adapters_store.union import blocks_in, counted, keys, union_digest, union_table

Members = Sequence[tuple[Adapter, float]]
VANISHING = 1e-6  # scales whose sum is below this share of their magnitudes cannot be averaged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseDelta:
    """``delta`` float32 (num_entries,), in the order of ``index_set``, on its device."""

    index_set: IndexSet
    delta: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Positions that both touch, or one alone; shared positions where the deltas have opposite signs; the cosine of
    the two deltas as vectors over all weights (None when one of them is zero everywhere)."""

    shared: int
    only_a: int
    only_b: int
    sign_conflicts: int
    delta_cosine: float | None


def fuse(members: Members, fusion: Fusion, kernels: Kernels) -> SparseDelta:
    """Members in the blend's order, at least one, all on the device that ``kernels`` is for.

    Members that share one index set get that very object back. Any other union is named after the sets it is made of,
    whatever the scales and the method, so that blends of the same adapters share it. Raises BlendRejected.
    A fusion over steps has nothing to fuse: only the parts of such a blend come here."""
    _check(members, fusion)
    terms = [_Term(adapter, adapter.values, _float32(scale, adapter)) for adapter, scale in members]
    match fusion.method:
        case "sum":
            union = _unite(terms, kernels)
            delta = union.total
        case "mean":
            union = _unite(terms, kernels)
            delta = union.total / _sum_of_scales(terms)
        case "ram":
            union = _unite(terms, kernels)
            delta = _mean_where_shared(union)
        case "ties":
            union = _unite([_trimmed(term, fusion.density) for term in terms], kernels)
            delta = _mean_of_elected_sign(union)
        case "switch" | "composite":
            raise AssertionError(f"{fusion.method} composes over steps and makes no delta")
        case _:
            assert_never(fusion.method)
    return SparseDelta(index_set=union.index_set, delta=delta)


def overlap(a: Adapter, b: Adapter) -> Overlap:
    """Adapters of one base, on one device. Raises BlendRejected."""
    _check([(a, 1.0), (b, 1.0)], Fusion())
    table = union_table([a.index_set, b.index_set])
    keys_a, keys_b = keys(a.index_set, table), keys(b.index_set, table)
    place = torch.searchsorted(keys_a, keys_b).clamp(max=keys_a.numel() - 1)
    is_shared = keys_a[place] == keys_b
    values_a, values_b = a.values.double(), b.values.double()
    products = values_a[place[is_shared]] * values_b[is_shared]
    norms = float(values_a.norm() * values_b.norm())
    num_shared = int(is_shared.sum())
    return Overlap(
        shared=num_shared,
        only_a=keys_a.numel() - num_shared,
        only_b=keys_b.numel() - num_shared,
        sign_conflicts=int((products < 0).sum()),
        delta_cosine=float(products.sum()) / norms if norms else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Term:
    """wV of one member. ``scale`` is a float32 scalar on the adapter's device."""

    adapter: Adapter
    values: Tensor
    scale: Tensor

    def product(self) -> Tensor:
        return self.values.float() * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Union:
    """The union of the terms' supports and their sum on it. ``is_shared`` when all have the same index set."""

    terms: Sequence[_Term]
    index_set: IndexSet
    total: Tensor  # float32 (num_entries,)
    is_shared: bool

    def placed(self) -> Iterator[tuple[_Term, Tensor | slice]]:
        """Each term with the places of its entries in the union."""
        if self.is_shared:
            yield from ((term, slice(None)) for term in self.terms)
            return
        union_keys = keys(self.index_set, self.index_set.table)
        for term in self.terms:
            yield term, torch.searchsorted(union_keys, keys(term.adapter.index_set, self.index_set.table))


def _unite(terms: Sequence[_Term], kernels: Kernels) -> _Union:
    index_sets = [term.adapter.index_set for term in terms]
    first = index_sets[0]
    if all(index_set.digest == first.digest for index_set in index_sets):
        total = terms[0].product()
        for term in terms[1:]:
            total += term.product()
        return _Union(terms=terms, index_set=first, total=total, is_shared=True)
    table = union_table(index_sets)
    union_members = [
        UnionMember(
            blocks=blocks_in(index_set, table),
            offsets=index_set.offsets,
            indices=index_set.indices,
            values=term.values,
            scale=float(term.scale),
        )
        for term, index_set in zip(terms, index_sets, strict=True)
    ]
    offsets, indices, total = kernels.union_sum(table[-1].end_block, union_members)
    index_set = IndexSet(
        digest=union_digest(index_sets), table=counted(table, offsets), offsets=offsets, indices=indices
    )
    return _Union(terms=terms, index_set=index_set, total=total, is_shared=False)


def _mean_where_shared(union: _Union) -> Tensor:
    if len(union.terms) == 1:
        return union.total
    if union.is_shared:
        return union.total / _sum_of_scales(union.terms)
    num_touching = torch.zeros_like(union.total, dtype=torch.int32)
    scales, magnitudes = torch.zeros_like(union.total), torch.zeros_like(union.total)
    for term, places in union.placed():
        num_touching[places] += 1
        scales[places] += term.scale
        magnitudes[places] += term.scale.abs()
    is_mean = num_touching > 1
    if bool((is_mean & _vanishes(scales, magnitudes)).any()):
        raise BlendRejected("ram: the scales of adapters that touch the same weights add up to 0")
    return torch.where(is_mean, union.total / scales, union.total)


def _mean_of_elected_sign(union: _Union) -> Tensor:
    elected = union.total.sign()
    merged, num_agreeing = torch.zeros_like(union.total), torch.zeros_like(union.total)
    for term, places in union.placed():
        product = term.product()
        agrees = product.sign() == elected[places]
        merged[places] += torch.where(agrees, product, 0)
        num_agreeing[places] += agrees
    return merged / num_agreeing.clamp(min=1)


def _trimmed(term: _Term, density: float | None) -> _Term:
    """The term with all but the largest values of each weight set to 0; the support stays."""
    if density is None or density == 1:
        return term
    kept = term.values.clone()
    for start, end in pairwise(term.adapter.index_set.entry_starts):
        magnitudes = kept[start:end].float().abs()
        num_kept = max(1, math.floor(density * int(magnitudes.count_nonzero())))
        threshold = magnitudes.kthvalue(end - start - num_kept + 1).values
        is_above, is_at = magnitudes > threshold, magnitudes == threshold
        is_kept = is_above | (is_at & (is_at.cumsum(0) <= num_kept - is_above.sum()))
        kept[start:end].masked_fill_(~is_kept, 0)
    return _Term(term.adapter, kept, term.scale)


def _sum_of_scales(terms: Sequence[_Term]) -> Tensor:
    total = torch.zeros_like(terms[0].scale)
    magnitude = torch.zeros_like(total)
    for term in terms:
        total += term.scale
        magnitude += term.scale.abs()
    if bool(_vanishes(total, magnitude)):
        raise BlendRejected("the scales of a blend that is averaged add up to 0")
    return total


def _vanishes(total: Tensor, magnitude: Tensor) -> Tensor:
    """Whether a sum of scales is nothing but rounding."""
    return total.abs() <= VANISHING * magnitude


def _float32(scale: float, adapter: Adapter) -> Tensor:
    return torch.tensor(scale, dtype=torch.float32, device=adapter.values.device)


def _check(members: Members, fusion: Fusion) -> None:
    if not members:
        raise BlendRejected("nothing to fuse: the blend is empty")
    if any(adapter.base != members[0][0].base for adapter, _ in members):
        raise BlendRejected("the adapters of one blend must be made for one base")
    check_fusion(fusion)
