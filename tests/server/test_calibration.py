from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from adapters_store.kernels import get_row_kernels
from loadtest.tiny_model import Architecture, save_tiny_model
from server.calibration import SHARE, calibrate, random_adapter
from server.execution.audit import audit
from server.runners.backends import paged_backend, rows_backend
from server.runners.loading import LoadedModel, load_llm
from server.stack import PickBackend


def base_is_intact(loaded: LoadedModel) -> bool:
    *_, report = audit(loaded.weights, lambda: None)
    return report is not None and report.ok


@pytest.mark.parametrize(
    ("architecture", "pick"), [("llama", paged_backend), ("llama", rows_backend), ("mistral-sliding", rows_backend)]
)
def test_calibration_measures_every_figure_and_leaves_nothing_behind(
    tmp_path: Path, architecture: Architecture, pick: PickBackend
) -> None:
    loaded = load_llm(save_tiny_model(tmp_path / "model", architecture))
    backend = pick(loaded, get_row_kernels("cpu"), 1 << 24)
    before = backend.describe()
    costs = calibrate(loaded, backend)
    assert [num_tokens for num_tokens, _ in costs.step_points] == [1, 8, 32, 64, 256]
    assert all(0 < low <= high for (_, low), (_, high) in pairwise(costs.step_points))
    assert costs.switch_entry_s > 0
    assert costs.correction_s >= 0
    assert costs.patch_s >= 0
    assert costs.relate_entry_s >= 0
    assert base_is_intact(loaded)
    used = {key: value for key, value in backend.describe().items() if "used" in key}
    assert used == {key: before[key] for key in used}
    assert set(used.values()) == {0}


def test_steps_that_the_kv_memory_cannot_hold_are_not_measured(tmp_path: Path) -> None:
    loaded = load_llm(save_tiny_model(tmp_path / "model"))
    page_bytes = 2 * 2 * (8 + 16) * 16 * 4  # layers, KV heads, a key and a padded value, tokens, fp32
    costs = calibrate(loaded, paged_backend(loaded, get_row_kernels("cpu"), 10 * page_bytes))
    assert [num_tokens for num_tokens, _ in costs.step_points] == [1, 8, 64]


def test_the_adapter_covers_its_share_of_each_mixable_weight(tmp_path: Path) -> None:
    loaded = load_llm(save_tiny_model(tmp_path / "model"))
    names = paged_backend(loaded, get_row_kernels("cpu"), 1 << 24).mixable_weights
    adapter = random_adapter(loaded, names)
    assert {entry.name for entry in adapter.index_set.table} == names
    total = sum(entry.numel for entry in adapter.index_set.table)
    assert adapter.index_set.num_entries == pytest.approx(SHARE * total, rel=0.2)
