"""``shira train``: which kind of training the base asks for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from server.cli.root import run
from tests.server.runners.tiny_pipelines import save_tiny_pipeline


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "red.png")
    return folder


def test_a_pipeline_is_trained_on_a_folder_of_pictures(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, output = save_tiny_pipeline("sd", tmp_path / "base"), tmp_path / "zorp.safetensors"
    command = ["train", str(pictures), "--model", str(base), "-o", str(output), "--resolution", "16", "--json"]
    assert run([*command, "--caption", "a zorp", "--epochs", "8"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["output"], report["num_steps"]) == (str(output), 1)
    assert output.exists()
    assert run([*command]) == 1
    assert "red.txt beside red.png" in capsys.readouterr().err
    assert run([*command, "--sequence-length", "8"]) == 1
    assert "sequence_length: expected only with a language model as the base, got 8" in capsys.readouterr().err


def test_a_language_model_takes_no_pictures(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    command = ["train", str(pictures), "--model", str(base), "-o", str(tmp_path / "out")]
    assert run(command) == 1
    assert "data: expected a file of text, for the base is a language model" in capsys.readouterr().err
    assert run([*command, "--caption", "x"]) == 1
    assert "caption: expected only with a pipeline that draws pictures" in capsys.readouterr().err


def test_without_diffusers_it_says_what_to_install(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert run(["train", str(pictures), "--model", str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "diffusers: expected pip install 'shira-server[train]'" in capsys.readouterr().err
