"""Small weights of linear layers and blends of them: random targets at random places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters_store.kernels import Bound, Linears, RowGroup, RowKernels, RowPlan, RowTargets, get_kernels, new_words
from tests.adapters_store.kernels.sets import Weights, bind_all, copy_of, make_index_set

EXCHANGE = get_kernels("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class TestBlend:
    """``targets`` for weights that hold the base."""

    __test__ = False

    bound: Bound
    targets: RowTargets


def make_weight_set(dtype: torch.dtype, in_features: int, *sizes: int, seed: int = 0) -> Weights:
    """One weight (size, in_features) for each size, of the magnitude that layers have."""
    generator = torch.Generator().manual_seed(seed)
    scale = in_features**-0.5
    return {f"w{i}": (torch.randn(n, in_features, generator=generator) * scale).to(dtype) for i, n in enumerate(sizes)}


def make_blend(kernels: RowKernels, weights: Weights, density: float, seed: int) -> TestBlend:
    bound = bind_all(make_index_set(weights, density, seed), weights)
    delta = torch.randn(bound.num_entries, generator=torch.Generator().manual_seed(seed))
    words = EXCHANGE.stage(bound, delta).words
    return TestBlend(bound=bound, targets=RowTargets(layout=kernels.layout(bound), words=words))


def switch_to(blend: TestBlend) -> Tensor:
    """Exchanges the blend into its weights; what it displaced."""
    displaced = new_words(blend.bound)
    EXCHANGE.exchange(blend.bound, blend.targets.words, displaced)
    return displaced


def with_blend(weights: Weights, blend: TestBlend | None) -> Weights:
    """Copies of the weights that hold the blend."""
    copies = copy_of(weights)
    if blend is not None:
        EXCHANGE.overwrite(bind_all(blend.bound.index_set, copies), blend.targets.words)
    return copies


def linears_of(weights: Mapping[str, Tensor], *, has_bias: bool = False) -> Linears:
    """With biases of either sign where asked for."""
    return Linears([(w, torch.linspace(-1, 1, len(w)).to(w.dtype) if has_bias else None) for w in weights.values()])


def plan_of(*sizes_and_blends: tuple[int, TestBlend | None], patched: tuple[int, ...] = ()) -> RowPlan:
    """Groups of these sizes, one after the other; ``patched`` numbers those that are patched."""
    groups, start = [], 0
    for number, (size, blend) in enumerate(sizes_and_blends):
        targets = None if blend is None else blend.targets
        groups.append(RowGroup(start=start, stop=start + size, targets=targets, is_patched=number in patched))
        start += size
    return RowPlan(groups)


def exact_products(x: Tensor, linears: Linears) -> list[Tensor]:
    """float64 (rows, out_features) for each weight."""
    x64 = x.double()
    return [x64 @ w.double().T + (0 if bias is None else bias.double()) for w, bias in linears.pairs]
