"""What is run: methods, domains, seeds, learning rates, and the key of each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapters_store.tools.masks import MaskName

DOMAINS = ("kjv", "python", "wordnet")

SWEEP_DOMAIN = DOMAINS[0]
SWEEP_SEED = 100  # none of the grid's
RATE_LADDER = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """``mask`` None is LoRA. ``rate_of`` names the method whose sweep chooses the learning rate. A disjoint mask gives
    each domain positions of its own. The ``main`` methods run with every seed and come first."""

    name: str
    mask: MaskName | None
    rate_of: str
    is_disjoint: bool = False
    is_dora: bool = False
    is_main: bool = False

    @property
    def is_swept(self) -> bool:
        return self.rate_of == self.name


METHODS = (
    Method(name="lora", mask=None, rate_of="lora", is_main=True),
    Method(name="wm", mask="wm", rate_of="wm", is_main=True),
    Method(name="rand", mask="rand", rate_of="rand", is_main=True),
    Method(name="snip", mask="snip", rate_of="snip", is_main=True),
    Method(name="struct", mask="struct", rate_of="struct"),
    Method(name="grad", mask="grad", rate_of="snip"),
    Method(name="wm-disjoint", mask="wm", rate_of="wm", is_disjoint=True),
    Method(name="wm-dora", mask="wm", rate_of="wm", is_dora=True),
)
LORA = METHODS[0].name
FIRST_RATES = dict.fromkeys(("wm", "rand", "snip", "struct"), (0.003, 0.01, 0.03)) | {"lora": (1e-3, 3e-3, 1e-2)}

FUSION_ALPHAS = (0.3, 0.5, 0.7, 0.85, 1.0)


def next_rate(first: tuple[float, ...], losses: Mapping[float, float]) -> float | None:
    """The learning rate to try next: the first ones, then whatever neighbour of the best was not tried, so that the
    best is no edge unless the ladder ends there. None when the sweep is over."""
    best = min(losses, key=losses.__getitem__) if losses else first[0]
    rung = RATE_LADDER.index(best)
    wanted = (*first, *RATE_LADDER[max(rung - 1, 0) : rung + 2])
    return next((rate for rate in wanted if rate not in losses), None)


BASE_KEY = "base"


def sweep_key(method: Method, rate: float) -> str:
    return f"sweep-{method.name}-{SWEEP_DOMAIN}-s{SWEEP_SEED}-lr{rate:g}"


def alone_key(method: Method, domain: str, seed: int) -> str:
    return f"alone-{method.name}-{domain}-s{seed}"


def fused_key(method: Method, seed: int) -> str:
    return f"fused-{method.name}-s{seed}"


def swept(methods: Sequence[str]) -> list[Method]:
    """Those whose sweeps choose the rates of ``methods``."""
    wanted = {method.rate_of for method in METHODS if method.name in methods}
    return [method for method in METHODS if method.name in wanted]


def order(methods: Sequence[str], seeds: Sequence[int], other_seeds: Sequence[int]) -> Iterator[tuple[Method, int]]:
    """Seed by seed, the main methods first."""
    for seed in dict.fromkeys((*seeds, *other_seeds)):
        for method in sorted(METHODS, key=lambda method: not method.is_main):
            if method.name in methods and seed in (seeds if method.is_main else other_seeds):
                yield method, seed
