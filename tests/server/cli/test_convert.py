from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from loadtest.tiny_model import save_tiny_model
from server.cli.root import run
from tests.adapters_store.tools.peft_world import rank_counts, save_native, save_peft_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # PEFT's and transformers' own, while PEFT makes an adapter
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


def test_a_native_file_goes_to_peft_and_back(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_native(base_dir, tmp_path / "native", rank_counts(base_dir, 1))
    there = ["convert", str(tmp_path / "native"), "-o", str(tmp_path / "peft"), "--to", "peft"]
    assert run([*there, "--base", str(base_dir)]) == 0
    assert f"version        {adapter.version}" in capsys.readouterr().out
    monkeypatch.setenv("SHIRA_MODEL", str(base_dir))  # where no base is given
    assert run(["convert", str(tmp_path / "peft"), "-o", str(tmp_path / "back"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == adapter.version
    assert (report["source"], report["to"], report["is_exact"]) == ("peft", "native", True)
    assert (tmp_path / "back").is_file()


def test_a_lora_is_made_sparse_with_a_table_and_a_warning(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_peft_adapter(base_dir, tmp_path / "lora", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    capsys.readouterr()
    arguments = ["convert", str(folder), "-o", str(tmp_path / "native"), "--base", str(base_dir)]
    assert run([*arguments, "--sparsity", "0.02", "--values-dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "model.layers.0.self_attn.q_proj.weight" in out
    assert "of the squared norm" in out
    assert "warning: " in out


def test_a_fine_tuning_that_touched_few_weights_becomes_an_adapter(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(base_dir / "model.safetensors")
    weights["model.norm.weight"][3] = 0.5
    (tmp_path / "new").mkdir()
    save_file(weights, tmp_path / "new" / "model.safetensors")
    arguments = ["extract", str(base_dir), str(tmp_path / "new"), "-o", str(tmp_path / "adapter")]
    assert run([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_entries"], report["weights"][0]["name"]) == (1, "model.norm.weight")
    assert run(arguments) == 0
    assert "1  model.norm.weight" in capsys.readouterr().out


def test_what_is_refused_is_one_line_and_exit_code_1(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_native(base_dir, tmp_path / "native", {"model.norm.weight": 1})
    convert = ["convert", str(tmp_path / "native"), "-o", str(tmp_path / "peft"), "--to", "peft"]
    extract = ["extract", str(base_dir), str(base_dir), "-o", str(tmp_path / "adapter")]
    for arguments, message in (([*convert, "--base", str(base_dir)], "nn.Linear"), (extract, "they are equal")):
        capsys.readouterr()
        assert run(arguments) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("Error: ")
        assert message in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "nowhere", "-o", "out"],
        ["convert", __file__],
        ["convert", __file__, "-o", "out", "--to", "gguf"],
        ["convert", __file__, "-o", "out", "--sparsity", "0"],
        ["extract", ".", "nowhere", "-o", "out"],
        ["extract", ".", ".", "-o", "out", "--max-density", "1.5"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(arguments) == 2


def test_values_are_as_asked_for(base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_native(base_dir, tmp_path / "native", rank_counts(base_dir, 1))
    arguments = ["convert", str(tmp_path / "native"), "-o", str(tmp_path / "single"), "--to", "diffusers"]
    assert run([*arguments, "--base", str(base_dir), "--values-dtype", "float16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_exact"] is False
    values = [tensor for name, tensor in load_file(tmp_path / "single").items() if "weight" in name]
    assert {tensor.dtype for tensor in values} == {torch.float16}
