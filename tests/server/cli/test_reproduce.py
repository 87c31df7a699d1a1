from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from adapters_store.tools.reproduction.plan import DOMAINS
from loadtest.tiny_model import save_tiny_model
from server.cli.root import run


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """``shira reproduce`` with a tiny model and three texts, in a git repository."""
    for command in (["init", "--quiet"], ["config", "user.name", "a"], ["config", "user.email", "a@localhost"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "data").mkdir()
    for domain in DOMAINS:
        (tmp_path / "data" / f"{domain}.txt").write_text(f"{domain} words " * 2000)
    options = {
        "model": save_tiny_model(tmp_path / "model"),
        "data-dir": tmp_path / "data",
        "output": tmp_path / "out",
        "work-dir": tmp_path / "work",
    }
    return ["reproduce", *(f"--{name}={value}" for name, value in options.items())]


def test_cells_are_measured_reported_and_committed_one_by_one(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--method=rand", "--steps=1", "--batch-size=2", "--sequence-length=8", "--max-cells=2", "--commit"]
    assert run([*arguments, *small]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'results.md'}\n"
    log = subprocess.run(["git", "log", "--format=%s"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert log.splitlines() == [
        "Measure sweep-rand-kjv-s100-lr0.003 of the reproduction",
        "Measure base of the reproduction",
    ]
    regime = json.loads((tmp_path / "out" / "cells" / "base.json").read_bytes())["regime"]
    assert (regime["steps"], regime["batch_size"], regime["sequence_length"]) == (1, 2, 8)


def test_the_report_alone_measures_nothing(arguments: list[str], tmp_path: Path) -> None:
    assert run([*arguments, "--report"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.md"]


def test_the_full_grid_has_cells_and_a_regime_of_its_own(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = [argument for argument in arguments if not argument.startswith("--output")]
    assert run([*elsewhere, "--full", "--method=rand", "--steps=1", "--sequence-length=8", "--max-cells=1"]) == 0
    cell = json.loads((tmp_path / "docs" / "reproduction" / "full" / "cells" / "base.json").read_bytes())
    assert (cell["regime"]["steps"], cell["regime"]["batch_size"], cell["regime"]["num_test"]) == (1, 16, 64)
    assert cell["machine"]["device"] == ("cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name())


def test_a_method_that_there_is_not_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--method=best"]) == 1
    assert "method: expected one of lora, wm, rand, snip, struct" in capsys.readouterr().err
