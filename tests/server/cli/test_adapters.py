"""The command line against a real server on a loopback socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from server.cli.root import run
from server.processes import free_port
from tests.adapters_store.small_adapters import small_adapter
from tests.server.api.rig import native_file
from tests.server.fakes import FINGERPRINT
from tests.server.live import Live, live


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("live") / "data") as running:
        yield running


@pytest.fixture(autouse=True)
def url(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIRA_URL", server.url)


def adapter_file(directory: Path, name: str, *, values: int = 0) -> Path:
    path = directory / f"{name}.safetensors"
    path.write_bytes(native_file(directory, small_adapter(values=values, base=FINGERPRINT)))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_an_adapter_goes_in_is_listed_shown_rolled_back_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for values in (1, 2):
        path = adapter_file(tmp_path, "pirate", values=values)
        assert run(["adapters", "push", str(path), "--tag", "fun", "--tag", "sea", "--description", "talks"]) == 0
        assert "pirate uploaded: sha256:" in capsys.readouterr().out
    assert run(["adapters", "push", str(path), "--json"]) == 0
    second = printed(capsys)
    assert (second["tags"], second["description"]) == (["fun", "sea"], "talks")
    assert run(["adapters", "list"]) == 0
    assert capsys.readouterr().out.startswith("pirate  sha256:")
    assert run(["adapters", "rollback", "pirate", "--json"]) == 0
    first = printed(capsys)
    assert first["version"] != second["version"]
    assert run(["adapters", "show", "pirate", "--json"]) == 0
    assert [entry["current"] for entry in printed(capsys)["versions"]] == [True, False]
    assert run(["adapters", "rollback", "pirate"]) == 1
    assert "no version before the current one" in capsys.readouterr().err
    assert run(["adapters", "rollback", "pirate", "--to", second["version"]]) == 0
    capsys.readouterr()
    assert run(["adapters", "rm", "pirate", "--version", first["version"], "--json"]) == 0
    assert printed(capsys) == {"name": "pirate", "versions": [first["version"]]}
    assert run(["adapters", "rm", "pirate"]) == 0
    assert run(["adapters", "show", "pirate"]) == 1
    assert "404: adapter 'pirate' does not exist" in capsys.readouterr().err


def test_rm_says_what_went_and_what_stayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = []
    for name, values in (("old", 3), ("two", 3), ("two", 4), ("two", 5)):
        assert run(["adapters", "push", str(adapter_file(tmp_path, name, values=values)), "--json"]) == 0
        versions.append(printed(capsys)["version"])
    assert run(["adapters", "rm", "two", "--version", versions[1]]) == 0
    kept = f"{versions[1]} of two deleted, two itself is kept; no version freed: another name still uses what it had\n"
    assert capsys.readouterr().out == kept
    assert run(["adapters", "rm", "two", "--version", versions[2]]) == 0
    assert capsys.readouterr().out == f"{versions[2]} of two deleted, two itself is kept; 1 version freed\n"
    assert run(["adapters", "rm", "two"]) == 0
    assert capsys.readouterr().out == "two deleted; 1 version freed\n"
    assert run(["adapters", "rm", "old"]) == 0


def test_a_peft_checkpoint_directory_is_pushed_under_its_own_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "from-peft"
    checkpoint.mkdir()
    (checkpoint / "adapter_config.json").write_text('{"peft_type": "SHIRA", "r": 1}')
    assert run(["adapters", "push", str(checkpoint)]) == 2
    assert "adapter_model.safetensors is missing" in capsys.readouterr().err
    tensors = {
        "base_model.model.layers.0.shira_indices": torch.tensor([[0, 3], [7, 5]], dtype=torch.int32),
        "base_model.model.layers.0.shira_weight": torch.tensor([0.5, -0.25]),
    }
    save_file(tensors, checkpoint / "adapter_model.safetensors")
    assert run(["adapters", "push", str(checkpoint), "--json"]) == 0
    assert printed(capsys)["name"] == "from-peft"
    assert run(["adapters", "rm", "from-peft"]) == 0


def test_a_refusal_of_the_server_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nothing")
    assert run(["adapters", "push", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"Error: 422: {path}: ")
    assert error.count("\n") == 1


def test_a_server_that_is_not_there_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["adapters", "list", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "is the server running?" in capsys.readouterr().err
    assert run(["adapters", "list", "--url", "http://host:port"]) == 2


def test_the_key_comes_from_the_environment_or_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live(tmp_path / "data", api_keys="schlüssel:admin") as guarded:
        address = ["--url", guarded.url]
        assert run(["adapters", "list", *address]) == 1
        assert run(["adapters", "list", *address, "--key", "schlüssel"]) == 0
        monkeypatch.setenv("SHIRA_KEY", "schlüssel")
        assert run(["adapters", "list", *address]) == 0
