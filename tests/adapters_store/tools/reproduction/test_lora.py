from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from torch import nn

from adapters_store.tools.applied import applied
from adapters_store.tools.reproduction.pairs import _compare, _compare_dense
from adapters_store.tools.reproduction.plan import METHODS
from adapters_store.tools.reproduction.settings import LORA_RANK, Settings
from adapters_store.tools.reproduction.training import Run, load_trained, train_run
from adapters_store.tools.reproduction.workbench import Workbench

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks
LORA = METHODS[0]


def lora_run(seed: int = 0) -> Run:
    return Run(key=f"a{seed}", method=LORA, domain="kjv", seed=seed, learning_rate=1e-2)


def test_the_dense_delta_gives_the_very_weights_that_peft_merges(settings: Settings) -> None:
    bench = Workbench(settings)
    outcome = train_run(bench, lora_run())
    merged = PeftModel.from_pretrained(bench.fresh_model(), settings.work_dir / "a0").merge_and_unload()
    assert outcome.num_parameters == sum(LORA_RANK * sum(bench.base.weights[name].shape) for name in bench.names)
    before = state(bench.model)
    with applied(bench.model, [(load_trained(bench, lora_run()), 1.0)]):
        ours = state(bench.model)
    theirs = state(merged)
    assert any(not torch.equal(ours[name], before[name]) for name in before)
    assert all(torch.equal(ours[name], theirs[name]) for name in before)


def test_a_mask_has_as_many_entries_as_lora_has_parameters(settings: Settings) -> None:
    bench = Workbench(settings)
    for mask in METHODS[1:4]:
        outcome = train_run(bench, Run(key=mask.name, method=mask, domain="kjv", seed=0, learning_rate=1e-2))
        adapter = load_trained(bench, Run(key=mask.name, method=mask, domain="kjv", seed=0, learning_rate=1e-2))
        assert outcome.num_parameters == adapter.index_set.num_entries
        assert outcome.num_parameters == sum(LORA_RANK * sum(bench.base.weights[name].shape) for name in bench.names)


def test_random_masks_of_different_domains_are_different_and_of_one_run_the_same(settings: Settings) -> None:
    bench = Workbench(settings)
    rand = next(method for method in METHODS if method.name == "rand")
    runs = [
        Run(key=f"{domain}{time}", method=rand, domain=domain, seed=0, learning_rate=1e-2)
        for domain in ("kjv", "python")
        for time in (1, 2)
    ]
    for run in runs:
        train_run(bench, run)
    first, again, other, _ = (load_trained(bench, run) for run in runs)
    assert first.version == again.version
    assert first.index_set.digest != other.index_set.digest


def test_figures_of_a_dense_pair_do_not_depend_on_how_they_are_computed(settings: Settings) -> None:
    bench = Workbench(replace(settings, targets=("q_proj",)))
    adapters = []
    for seed in (0, 1):
        train_run(bench, lora_run(seed))
        adapters.append(load_trained(bench, lora_run(seed)))
    sparse, dense = (compare(("kjv", "python"), *adapters) for compare in (_compare, _compare_dense))
    assert sparse.shared == dense.shared == 2 * 64 * 64
    assert sparse.sign_conflicts == dense.sign_conflicts
    assert sparse.delta_cosine == pytest.approx(dense.delta_cosine)
    assert (sparse.awom, sparse.awor) == pytest.approx((dense.awom, dense.awor))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}
