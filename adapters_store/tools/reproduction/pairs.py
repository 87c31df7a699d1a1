"""How much two adapters are in each other's way, a dense delta (LoRA's) included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from statistics import fmean

from torch import Tensor

from adapters_store.adapter import Adapter
from adapters_store.fusion import overlap
from adapters_store.tools.orthogonality import Orthogonality, matrices, orthogonality
from adapters_store.tools.reproduction.cells import PairFigures


def pair_figures(adapters: Mapping[str, Adapter]) -> list[PairFigures]:
    """Of every pair of domains. The adapters touch the same weights."""
    is_dense = all(_is_dense(adapter) for adapter in adapters.values())
    compare = _compare_dense if is_dense else _compare
    return [compare((first, second), adapters[first], adapters[second]) for first, second in combinations(adapters, 2)]


def _compare(domains: tuple[str, str], a: Adapter, b: Adapter) -> PairFigures:
    found = overlap(a, b)
    in_a, in_b = matrices(a), matrices(b)
    measured = [orthogonality(in_a[name], in_b[name]) for name in in_a]
    return PairFigures(
        domains=domains,
        shared=found.shared,
        only_a=found.only_a,
        only_b=found.only_b,
        sign_conflicts=found.sign_conflicts,
        delta_cosine=found.delta_cosine,
        awom=_total(measured),
        awor=fmean(found.awor for found in measured),
    )


def _compare_dense(domains: tuple[str, str], a: Adapter, b: Adapter) -> PairFigures:
    """The same figures weight by weight, without a position for every entry."""
    product, squares_a, squares_b, sign_conflicts = 0.0, 0.0, 0.0, 0
    measured = []
    for in_a, in_b in zip(_dense_matrices(a), _dense_matrices(b), strict=True):
        products = in_a * in_b
        product += float(products.sum())
        squares_a += float(in_a.square().sum())
        squares_b += float(in_b.square().sum())
        sign_conflicts += int((products < 0).sum())
        across = in_a.T @ in_b  # (in, in)
        num_nonzero = int(across.count_nonzero())
        measured.append(Orthogonality(awom=float(across.norm()), awor=1 - num_nonzero / across.numel()))
    norms = (squares_a * squares_b) ** 0.5
    return PairFigures(
        domains=domains,
        shared=a.index_set.num_entries,
        only_a=0,
        only_b=0,
        sign_conflicts=sign_conflicts,
        delta_cosine=product / norms if norms else None,
        awom=_total(measured),
        awor=fmean(found.awor for found in measured),
    )


def _is_dense(adapter: Adapter) -> bool:
    return all(entry.count == entry.numel for entry in adapter.index_set.table)


def _dense_matrices(adapter: Adapter) -> Iterator[Tensor]:
    """float64 (out, in), of each weight."""
    for entry, (start, end) in zip(adapter.index_set.table, pairwise(adapter.index_set.entry_starts), strict=True):
        yield adapter.values[start:end].double().view(entry.shape)


def _total(measured: list[Orthogonality]) -> float:
    """The norm over the whole model."""
    return float(sum(found.awom**2 for found in measured) ** 0.5)
