"""A base directory is data: nothing in it runs, and nothing in it is unpickled."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from adapters_store.errors import TrainingRefused
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer
from tests.server.runners.tiny_model import save_tiny_model


def test_code_that_a_base_brings_is_not_run_even_if_somebody_says_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = save_tiny_model(tmp_path / "base")
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    for name in ("config.json", "tokenizer_config.json"):
        path = model_dir / name
        known = json.loads(path.read_bytes()) if path.exists() else {}
        path.write_text(json.dumps(known | {"model_type": "own", "tokenizer_class": "Own", "auto_map": own}))
    trace = tmp_path / "it-ran"
    (model_dir / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: ...\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))  # transformers would ask
    with pytest.raises(TrainingRefused, match=r"model: expected a transformers .* custom code"):
        load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
    with pytest.raises(TrainingRefused, match=r"model: expected a directory with a tokenizer"):
        load_tokenizer(model_dir)
    assert not trace.exists()


def test_weights_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    model_dir = save_tiny_model(tmp_path / "base")
    model = load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
    torch.save(model.state_dict(), model_dir / "pytorch_model.bin")
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(TrainingRefused, match=r"model: expected a transformers .*safetensors"):
        load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
