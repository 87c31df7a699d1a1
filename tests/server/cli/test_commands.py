from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import click
import pytest

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from adapters_store.tools.masks import MaskName
from adapters_store.tools.train_options import TrainOptions
from server import __version__
from server.cli.root import run, shira
from server.cli.train import MASKS, train
from server.core.config import ENV_ONLY, ServerConfig, env_name, flag_name
from tests.adapters_store.small_adapters import small_adapter, upload
from tests.server.api.rig import native_file


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(shira.commands)), ["adapters", "push"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: shira")


def test_every_setting_but_the_secrets_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    run(["serve", "--help"])
    words = capsys.readouterr().out.replace("]", " ").split()
    for key in ServerConfig.model_fields.keys() - ENV_ONLY:
        assert any(word.startswith(flag_name(key)) for word in words)
        assert env_name(key) in words


def test_the_help_of_serve_names_the_two_sources_of_the_default_model(capsys: pytest.CaptureFixture[str]) -> None:
    run(["serve", "--help"])
    assert {"@hub", "@package"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["adapters", "push"], ["serve", "--port", "x"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err


def test_a_wrong_setting_is_one_line_naming_key_value_and_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHIRA_MAX_QUEUE", "lots")
    assert run(["serve"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: environment variable SHIRA_MAX_QUEUE: max_queue = 'lots': ")
    assert error.count("\n") == 1


def test_a_variable_that_is_no_setting_is_warned_of_even_where_another_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHIRA_PROT", "3")
    assert run(["serve", "--max-queue", "lots"]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning == "Warning: the environment variable SHIRA_PROT is not a setting and is ignored"
    assert error.startswith("Error: flag --max-queue")


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "server", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"shira, version {__version__}"


def test_inspect_describes_a_file_and_refuses_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = small_adapter()
    data = native_file(tmp_path, adapter)
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert run(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == adapter.version
    assert run(["inspect", str(path)]) == 0
    assert adapter.version in capsys.readouterr().out
    path.write_bytes(data[:-1])
    assert run(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"Error: {path}: ")


def test_a_store_is_backed_up_and_checked_and_harm_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    store = AdapterStore(StoreConfig(data_dir=data, host_budget_bytes=1 << 20, redis=RedisSettings(mode="off")))
    store.put(upload(small_adapter()), tenant="default", name="pirate")
    assert run(["store", "backup", str(data), str(copy)]) == 0, "while the directory is in use"
    store.close()
    assert "3 new files" in capsys.readouterr().out
    assert run(["store", "check", str(copy)]) == 0
    assert "1 names, 1 versions" in capsys.readouterr().out
    next((copy / "adapters" / "values").iterdir()).unlink()
    assert run(["store", "check", str(copy)]) == 1
    assert "default/pirate, version sha256:" in capsys.readouterr().err


def test_train_refuses_wrong_options_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    arguments = ["train", str(text), "-o", str(tmp_path / "out.safetensors"), "--model", str(tmp_path)]
    for wrong in (["--sparsity", "2"], ["--held-out", "x"], ["--precision", "int4"], ["--max-steps", "0"]):
        assert run([*arguments, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert run(["train", str(tmp_path / "none"), "-o", "x"]) == 2


def test_the_help_of_train_explains_every_option_and_shows_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in train.params:
        assert not isinstance(option, click.Option) or option.help, option.name
    assert "[env: SHIRA_MODEL]" in text
    for field in fields(TrainOptions):
        if field.default not in (MISSING, None, False):
            shown = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
            assert f"[default: {shown}" in text, field.name
    assert "[default: 0.01, pictures 0.02]" in text
    assert "Instead of epochs. [x>=1] [default: pictures 1000]" in text


def test_every_mask_there_is_can_be_chosen() -> None:
    assert get_args(MaskName) == MASKS


def test_the_demo_misses_its_examples_before_it_starts_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--examples", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "expected two adapters" in told.err
