from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters_store.format import write_adapter
from loadtest.tiny_model import save_tiny_model
from server.bench_modes import run
from server.runners.loading import load_llm
from tests.server.runners.rig import random_adapter


def test_modes_agree_in_float32_and_rows_do_not_depend_on_their_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_model(tmp_path / "model")
    loaded = load_llm(base)
    names = [name for name in loaded.weights.description.weights if name.endswith("_proj.weight")]
    files = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, file in enumerate(files):
        write_adapter(random_adapter(loaded, seed, names, share=0.02), file)
    rows = run(base, files, as_json=True)
    assert len(json.loads(capsys.readouterr().out)) == len(rows) == 14
    for row in rows:
        if row.dtype == "float32":
            assert row.max_difference < 1e-3, row
            assert row.same_greedy == 1.0
    run(base, files[:1], as_json=False)
    assert "mixed over the base, alone" in capsys.readouterr().out
