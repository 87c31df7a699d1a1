from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from adapters_store.errors import AdapterRejected
from adapters_store.format import write_adapter
from adapters_store.tools.inspect import inspect_file, render
from tests.adapters_store.adapter_files import make_adapter


def test_a_native_file_is_told_without_a_base(tmp_path: Path) -> None:
    adapter = make_adapter({"b.weight": [0, 5], "c.weight": [1, 2, 3]}, [3.0, -4.0, 0.0, 1.0, -2.0])
    write_adapter(adapter, tmp_path / "a.safetensors", card={"author": "someone"})
    found = inspect_file(tmp_path / "a.safetensors")
    assert found["format"] == "native"
    assert found["file_bytes"] == (tmp_path / "a.safetensors").stat().st_size
    assert (found["version"], found["base"]) == (adapter.version, adapter.base)
    assert (found["index_set"], found["values"]) == (adapter.index_set.digest, adapter.values_digest)
    assert (found["num_entries"], found["num_weights"], found["num_zero_values"]) == (5, 2, 1)
    assert found["density"] == pytest.approx(5 / (70 + 2048))
    assert found["card"] == {"author": "someone"}
    first = found["weights"][0]
    assert first == {
        "name": "b.weight",
        "shape": [70],
        "dtype": "bfloat16",
        "count": 2,
        "density": 2 / 70,
        "l2_norm": 5.0,
        "max_abs": 4.0,
    }
    json.dumps(found)
    text = render(found)
    assert adapter.version in text
    assert "c.weight 64×32" in text


def test_of_a_peft_checkpoint_the_values_are_told(tmp_path: Path) -> None:
    tensors = {
        "base_model.model.c.shira_indices": torch.zeros(2, 2, dtype=torch.int32),
        "base_model.model.c.shira_weight": torch.tensor([3.0, -4.0], dtype=torch.bfloat16),
    }
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = inspect_file(path)
        assert found["format"] == "peft"
        assert "version" not in found
        assert found["values_dtype"] == "bfloat16"
        assert found["weights"] == [{"name": "c.weight", "count": 2, "l2_norm": 5.0, "max_abs": 4.0}]
        assert "c.weight" in render(found)


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"lora_A": torch.ones(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(AdapterRejected, match="neither"):
        inspect_file(tmp_path / "lora.safetensors")
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(AdapterRejected):
        inspect_file(tmp_path / "broken")
