"""The figures of the report against sums that fit in the head."""

from __future__ import annotations

from typing import Any

import pytest

from adapters_store.tools.reproduction.cells import AloneCell, BaseCell, Cell, Fused, FusedCell
from adapters_store.tools.reproduction.fusing import FUSIONS
from adapters_store.tools.reproduction.plan import DOMAINS
from adapters_store.tools.reproduction.regime import regime_of
from adapters_store.tools.reproduction.settings import Settings
from adapters_store.tools.reproduction.summary import Summary
from adapters_store.tools.reproduction.tables import fused

BASE = {"kjv": 3.0, "python": 2.0, "wordnet": 4.0}


@pytest.fixture
def common(settings: Settings) -> dict[str, Any]:
    regime = regime_of(settings, base="base", texts={}, shapes=[(8, 4)])
    seconds = {"train": 1.0, "mask": 0.0}
    return {"regime": regime, "seconds": seconds, "versions": {}, "machine": {"device": "cpu", "num_threads": 1}}


@pytest.fixture
def summary(common: dict[str, Any]) -> Summary:
    """LoRA gains 1 and, with another seed, 0.8, at 0.25 for the others; rand gains 0.5 at nothing, with both seeds.
    Only the first seed is fused."""
    cells: list[Cell] = [BaseCell(key="base", validation=BASE, test=BASE, **common)]
    for method, seed, gain, cost in (
        ("lora", 0, 1.0, 0.25),
        ("lora", 1, 0.8, 0.25),
        ("rand", 0, 0.5, 0),
        ("rand", 1, 0.5, 0),
    ):
        cells += [alone_cell(common, method, domain, seed, gain=gain, cost=cost) for domain in DOMAINS]
    cells += [fused_cell(common, "lora", gain=0.25), fused_cell(common, "rand", gain=-0.25)]
    return Summary({cell.key: cell for cell in cells})


def test_each_adapter_counts_on_its_own_domain_and_what_the_others_lose_apart(summary: Summary) -> None:
    assert summary.alone_loss("lora", "kjv").figures == pytest.approx((2.0, 2.2))
    assert summary.alone_loss("lora", None).figures == pytest.approx((2.0, 2.2))
    assert summary.alone_loss("lora", None).std == pytest.approx(0.2 / 2**0.5)
    assert summary.forgetting("lora").figures == pytest.approx((0.25, 0.25))
    assert summary.forgetting("rand").figures == (0.0, 0.0)


def test_methods_are_compared_seed_by_seed(summary: Summary) -> None:
    difference = summary.against_lora("rand")
    assert difference is not None
    assert difference.figures == pytest.approx((0.5, 0.3))
    assert summary.against_lora("lora") is None
    fused_difference = summary.fused_against_lora("rand", "sum")
    assert fused_difference is not None
    assert fused_difference.figures == pytest.approx((0.5,))


def test_the_gain_kept_is_a_share_of_what_the_very_adapters_fused_gain_alone(summary: Summary) -> None:
    assert summary.gain_kept("lora", "sum").figures == pytest.approx((0.25,))
    assert summary.gain_kept("rand", "sum").figures == pytest.approx((-0.5,))


def test_a_seed_that_is_not_fused_yet_does_not_count_beside_those_that_are(summary: Summary) -> None:
    assert summary.alone_of_fused("lora").figures == pytest.approx((2.0,))
    assert "| lora | 1 | 2.000 | 2.750 |" in fused(summary)


def alone_cell(common: dict[str, Any], method: str, domain: str, seed: int, *, gain: float, cost: float) -> AloneCell:
    test = {name: loss - gain if name == domain else loss + cost for name, loss in BASE.items()}
    return AloneCell(
        key=f"alone-{method}-{domain}-s{seed}",
        method=method,
        domain=domain,
        seed=seed,
        learning_rate=0.01,
        num_parameters=1,
        num_touched=1,
        num_tokens=1,
        adapter="sha256:0",
        train_loss=1.0,
        validation={domain: 1.0},
        test=test,
        test_unmerged=test if method == "lora" else None,
        **common,
    )


def fused_cell(common: dict[str, Any], method: str, *, gain: float) -> FusedCell:
    """Of seed 0."""
    found = Fused(alpha=1.0, test={name: loss - gain for name, loss in BASE.items()})
    return FusedCell(
        key=f"fused-{method}-s0",
        method=method,
        seed=0,
        adapters={},
        retrained=[],
        validation={"1": 1.0},
        fusions=dict.fromkeys(FUSIONS, found),
        pairs=[],
        **common,
    )
