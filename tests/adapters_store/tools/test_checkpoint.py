"""A base directory is data: nothing in it runs, and nothing in it is unpickled."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from adapters_store.errors import TrainingRefused
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer
from adapters_store.tools.linear_weights import linear_weights
from loadtest.tiny_model import save_tiny_model


@pytest.fixture
def says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To all that transformers may ask."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))


@pytest.mark.usefixtures("says_yes")
@pytest.mark.parametrize("model_type", ["own", "t5"])  # t5: known to transformers, though as no causal model
def test_code_that_a_base_brings_is_not_run_even_if_somebody_says_yes(tmp_path: Path, model_type: str) -> None:
    model_dir, trace = save_with_code(tmp_path, model_type)
    with pytest.raises(TrainingRefused, match=r"model: expected a transformers .* custom code"):
        load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
    with pytest.raises(TrainingRefused, match=r"base: expected a model that .* custom code"):
        linear_weights(model_dir)
    assert not trace.exists()


@pytest.mark.usefixtures("says_yes")
def test_nor_is_that_of_its_tokenizer(tmp_path: Path) -> None:
    model_dir, trace = save_with_code(tmp_path, "own")
    with pytest.raises(TrainingRefused, match="model: expected a directory with a tokenizer"):
        load_tokenizer(model_dir)
    assert not trace.exists()


def save_with_code(folder: Path, model_type: str) -> tuple[Path, Path]:
    """A base whose configs name code beside them, and the file that this code would leave behind."""
    model_dir, trace = save_tiny_model(folder / "base"), folder / "it-ran"
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    for name in ("config.json", "tokenizer_config.json"):
        path = model_dir / name
        known = json.loads(path.read_bytes()) if path.exists() else {}
        path.write_text(json.dumps(known | {"model_type": model_type, "tokenizer_class": "Own", "auto_map": own}))
    (model_dir / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: ...\n")
    return model_dir, trace


def test_weights_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    model_dir = save_tiny_model(tmp_path / "base")
    model = load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
    torch.save(model.state_dict(), model_dir / "pytorch_model.bin")
    (model_dir / "model.safetensors").unlink()
    with pytest.raises(TrainingRefused, match=r"model: expected a transformers .*safetensors"):
        load_causal_lm(model_dir, dtype=torch.float32, device="cpu")
