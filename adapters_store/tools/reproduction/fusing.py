"""All domains' adapters of one method in the weights at once, by every fusion."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from adapters_store.adapter import Adapter
from adapters_store.blend import DeltaMethod, Fusion
from adapters_store.tools.reproduction.cells import Fused
from adapters_store.tools.reproduction.plan import FUSION_ALPHAS
from adapters_store.tools.reproduction.workbench import Workbench

TUNED = "sum-tuned"
OTHER_FUSIONS: tuple[DeltaMethod, ...] = ("mean", "ties", "ram")
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


def _measure(bench: Workbench, adapters: Mapping[str, Adapter], alpha: float, method: DeltaMethod) -> Fused:
    members = [(adapter, alpha) for adapter in adapters.values()]
    return Fused(alpha=alpha, test=bench.losses(members, "test", fusion=Fusion(method=method)))
