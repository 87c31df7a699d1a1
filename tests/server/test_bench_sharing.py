from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from server.bench_sharing import TIERS, SharingOptions, SharingRow, run


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    weights = {f"layers.{n}.q_proj.weight": torch.randn((200, 400), generator=generator).bfloat16() for n in range(2)}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def rows_of(model_dir: Path, mask: Literal["wm", "rand"], *, num_adapters: int = 5) -> list[SharingRow]:
    options = SharingOptions(
        model_dir=model_dir, mask=mask, sparsity=0.1, num_adapters=num_adapters, targets=("q_proj",)
    )
    return run(options, as_json=True)


def test_every_further_wm_adapter_costs_its_values_alone(model_dir: Path) -> None:
    rows = rows_of(model_dir, "wm")
    assert [row.num_adapters for row in rows] == [1, 2, 4, 5]
    assert {row.num_index_sets for row in rows} == {1}
    values = 2 * 8_000 * 2  # two weights, a tenth of each, two bytes
    for tier in TIERS:
        first, second, _, last = (getattr(row, tier) for row in rows)
        step = second - first
        assert last - first == 4 * step
        assert values <= step < values + 1500, tier  # header and manifest


def test_every_further_rand_adapter_costs_as_much_as_the_first(model_dir: Path) -> None:
    rows = rows_of(model_dir, "rand", num_adapters=4)
    assert [row.num_index_sets for row in rows] == [1, 2, 4]
    for row in rows:
        for tier in TIERS:
            assert getattr(row, tier) == row.num_adapters * getattr(rows[0], tier)


def test_the_table_and_the_json_tell_the_same(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SharingOptions(model_dir=model_dir, sparsity=0.1, num_adapters=2, targets=("q_proj",))
    rows = run(options, as_json=True)
    assert [SharingRow(**row) for row in json.loads(capsys.readouterr().out)] == rows
    assert run(options, as_json=False) == rows
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split()[:2] == ["2", "1"]
    assert f"{rows[-1].disk / 1e6:.2f} ({rows[-1].disk / rows[-1].files:.2f})" in last
