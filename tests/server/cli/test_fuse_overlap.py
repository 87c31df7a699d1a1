from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from adapters_store.blend import DELTA_METHODS
from adapters_store.format import read_adapter, write_adapter
from server.cli.fuse import METHODS, parse_scales
from server.cli.root import run
from tests.adapters_store.small_adapters import small_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        write_adapter(small_adapter(values=number), tmp_path / f"{name}.safetensors")
    write_adapter(small_adapter(mask=1), tmp_path / "c.safetensors")
    return tmp_path


def files(folder: Path, *names: str) -> list[str]:
    return [str(folder / f"{name}.safetensors") for name in names]


def test_every_fusion_method_is_offered() -> None:
    assert METHODS == DELTA_METHODS


def test_fuse_writes_one_file_and_tells_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "fused.safetensors"
    arguments = ["fuse", *files(folder, "a", "b"), "-o", str(output), "--scale", "b=0.5", "--method", "ties"]
    assert run([*arguments, "--density", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == read_adapter(output, base=None).adapter.version
    assert [(member["name"], member["scale"]) for member in told["members"]] == [("a", 1.0), ("b", 0.5)]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "0.5 × b" in shown
    assert "the members' own index set" in shown


def test_overlap_prints_a_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["overlap", *files(folder, "a", "b", "c")]) == 0
    assert {"a × b", "a × c", "b × c"} <= {line[:5] for line in capsys.readouterr().out.splitlines()}
    assert run(["overlap", *files(folder, "a", "b"), "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert (pair["a"], pair["b"], pair["shared"], pair["only_a"]) == ("a", "b", 128, 0)
    assert pair["weights"][0]["name"] == "layers.0.weight"


def test_one_adapter_has_nothing_to_be_compared_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["overlap", *files(folder, "a")]) == 1
    assert capsys.readouterr().err.startswith("Error: nothing to compare")
    assert run(["overlap"]) == 2


def test_a_refused_fusion_is_one_line_and_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "fused.safetensors"
    assert run(["fuse", *files(folder, "a", "a"), "-o", str(output)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["fuse", *files(folder, "a", "b"), "-o", str(output), "--density", "0.5"]) == 1
    assert run(["fuse", *files(folder, "a"), "-o", str(output), "--scale", "z=1"]) == 2
    assert not output.exists()


@pytest.mark.parametrize(
    ("texts", "scales"),
    [
        ([], ()),
        (["0.5", "-1"], (0.5, -1.0)),
        (["y=0.5"], (1.0, 0.5)),
        (["y=0.5", "x=2"], (2.0, 0.5)),
    ],
)
def test_scales_are_given_by_name_or_in_order(texts: list[str], scales: tuple[float, ...]) -> None:
    assert parse_scales(texts, ["x", "y"]) == scales


@pytest.mark.parametrize(
    "texts", [["1"], ["1", "2", "3"], ["x=1", "2"], ["z=1"], ["x=1", "x=2"], ["x=", "y=1"], ["a", "b"]]
)
def test_scales_that_do_not_fit_are_refused(texts: list[str]) -> None:
    with pytest.raises(click.UsageError, match="--scale"):
        parse_scales(texts, ["x", "y"])
