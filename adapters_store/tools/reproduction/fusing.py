"""All domains' adapters of one method at once: every fusion, and how much the adapters are in each other's way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, pairwise
from statistics import fmean

from adapters_store.adapter import Adapter
from adapters_store.blend import Fusion, FusionMethod
from adapters_store.fusion import overlap
from adapters_store.tools.reproduction.cells import Fused, PairFigures
from adapters_store.tools.reproduction.plan import FUSION_ALPHAS
from adapters_store.tools.reproduction.workbench import Workbench

TUNED = "sum-tuned"
OTHER_FUSIONS: tuple[FusionMethod, ...] = ("mean", "ties", "ram")
FUSIONS = ("sum", TUNED, *OTHER_FUSIONS)


def tune_alpha(bench: Workbench, adapters: Mapping[str, Adapter]) -> dict[str, float]:
    """Validation loss of the sum, the mean over the domains, at each alpha, one for all adapters."""
    return {
        f"{alpha:g}": fmean(bench.losses([(adapter, alpha) for adapter in adapters.values()], "validation").values())
        for alpha in FUSION_ALPHAS
    }


def fuse_all(bench: Workbench, adapters: Mapping[str, Adapter], validation: Mapping[str, float]) -> dict[str, Fused]:
    """Test losses of each fusion; ``validation`` chooses the alpha of the tuned sum."""
    best = float(min(validation, key=validation.__getitem__))
    fusions = {"sum": _measure(bench, adapters, 1.0, "sum")}
    fusions[TUNED] = fusions["sum"] if best == 1.0 else _measure(bench, adapters, best, "sum")
    for method in OTHER_FUSIONS:
        fusions[method] = _measure(bench, adapters, 1.0, method)
    return fusions


def pair_figures(adapters: Mapping[str, Adapter]) -> list[PairFigures]:
    return [_pair(first, adapters[first], second, adapters[second]) for first, second in combinations(adapters, 2)]


def _measure(bench: Workbench, adapters: Mapping[str, Adapter], alpha: float, method: FusionMethod) -> Fused:
    members = [(adapter, alpha) for adapter in adapters.values()]
    return Fused(alpha=alpha, test=bench.losses(members, "test", fusion=Fusion(method=method)))


def _pair(first: str, a: Adapter, second: str, b: Adapter) -> PairFigures:
    if a.index_set.digest == b.index_set.digest:
        return _pair_on_one_support(first, a, second, b)
    found = overlap(a, b)
    return PairFigures(
        domains=(first, second),
        shared=found.shared,
        only_a=found.only_a,
        only_b=found.only_b,
        sign_conflicts=found.sign_conflicts,
        delta_cosine=found.delta_cosine,
    )


def _pair_on_one_support(first: str, a: Adapter, second: str, b: Adapter) -> PairFigures:
    """As ``overlap``, weight by weight and without keys: a dense delta has too many entries for those."""
    product, squares_a, squares_b, sign_conflicts = 0.0, 0.0, 0.0, 0
    for start, end in pairwise(a.index_set.entry_starts):
        values_a, values_b = a.values[start:end].double(), b.values[start:end].double()
        products = values_a * values_b
        product += float(products.sum())
        squares_a += float(values_a.square().sum())
        squares_b += float(values_b.square().sum())
        sign_conflicts += int((products < 0).sum())
    norms = (squares_a * squares_b) ** 0.5
    return PairFigures(
        domains=(first, second),
        shared=a.index_set.num_entries,
        only_a=0,
        only_b=0,
        sign_conflicts=sign_conflicts,
        delta_cosine=product / norms if norms else None,
    )
