from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapters_store.adapter import build_table
from loadtest.tiny_model import save_tiny_model
from server.core.errors import ModelNotLoadable
from server.runners.loading import load_llm, resolve_model


def test_auto_loads_as_stored_and_the_fingerprint_does_not_depend_on_the_dtype(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m", dtype=torch.bfloat16)
    as_stored, wider = load_llm(path), load_llm(path, dtype="float32")
    assert (as_stored.weights.dtype, wider.weights.dtype) == ("bfloat16", "float32")
    assert as_stored.weights.fingerprint == wider.weights.fingerprint
    assert as_stored.weights.digest != wider.weights.digest
    assert as_stored.eos_tokens == {0}
    assert as_stored.max_context_tokens == 512


def test_the_weights_are_the_models_own_and_need_no_gradient(tmp_path: Path) -> None:
    loaded = load_llm(save_tiny_model(tmp_path / "m"))
    parameter = loaded.model.model.layers[0].self_attn.q_proj.weight
    [tensor] = loaded.weights.resolve(
        build_table([("model.layers.0.self_attn.q_proj.weight", tuple(parameter.shape), "float32", 1)])
    )
    assert tensor.data_ptr() == parameter.data_ptr()
    assert not parameter.requires_grad
    assert not loaded.model.training


def test_tied_embeddings_are_one_weight(tmp_path: Path) -> None:
    loaded = load_llm(save_tiny_model(tmp_path / "m", tied=True))
    aliases = {weight.name: weight.aliases for weight in loaded.weights.weights}
    assert aliases["model.embed_tokens.weight"] == ("lm_head.weight",)


def test_fingerprints_are_remembered(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m")
    first = load_llm(path, fingerprints_dir=tmp_path / "prints")
    [remembered] = (tmp_path / "prints").iterdir()
    assert first.weights.fingerprint in remembered.read_text()
    assert load_llm(path, fingerprints_dir=tmp_path / "prints").weights.fingerprint == first.weights.fingerprint


def test_a_directory_without_safetensors_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match="safetensors"):
        load_llm(path)


def test_a_model_that_wants_its_own_code_run_is_refused(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m")
    (path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    with pytest.raises(ModelNotLoadable):
        load_llm(path)


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    with pytest.raises(ModelNotLoadable, match="tokenizer"):
        load_llm(path)


def test_a_cuda_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelNotLoadable, match="CUDA"):
        load_llm(save_tiny_model(tmp_path / "m"), device="cuda")


def test_a_directory_is_taken_as_it_is_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path), tmp_path) == tmp_path
    with pytest.raises(ModelNotLoadable, match="no such directory"):
        resolve_model(str(tmp_path / "nothing"), tmp_path)


def test_a_hub_id_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotLoadable, match="some-org/some-model"):
        resolve_model("some-org/some-model", tmp_path)
