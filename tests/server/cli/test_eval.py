from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import click
import pytest
import torch

from adapters_store.adapter import build_adapter
from adapters_store.base import describe_checkpoint
from adapters_store.blend import Fusion
from adapters_store.format import Positions, pack_positions, write_adapter
from adapters_store.tools.evaluate_options import METRICS, PRECISIONS, BlendSpec, EvalOptions
from loadtest.tiny_model import save_tiny_model
from server.cli import eval as module
from server.cli.eval import evaluate, parse_blend
from server.cli.root import run

NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """``shira eval`` with a tiny model, one text and two adapters, a and b."""
    model_dir = save_tiny_model(tmp_path / "model")
    base = describe_checkpoint(model_dir)
    weight = base.weights[NAME]
    flat = torch.arange(0, 256, 2)
    positions = Positions(name=NAME, shape=weight.shape, dtype="float32", flat=flat)
    for number, name in enumerate("ab"):
        values = torch.randn(flat.numel(), generator=torch.Generator().manual_seed(number))
        adapter = build_adapter(base=base.fingerprint, index_set=pack_positions([positions]), values=values)
        write_adapter(adapter, tmp_path / f"{name}.safetensors")
    text = tmp_path / "text.txt"
    text.write_text("word " * 400)
    adapters = [f"--adapter={tmp_path / name}.safetensors" for name in "ab"]
    return ["eval", "--model", str(model_dir), "--data", str(text), "--sequence-length", "16", *adapters]


def test_json_on_standard_output_is_nothing_but_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--blend", "a=1,b=0.5:ram", "--scales", "0,0.5,1", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    subjects = [(row["subject"], row["scale"]) for row in rows]
    assert subjects[0] == ("base", 0.0)
    assert subjects[1:] == [(name, scale) for name in ("a", "b", "a=1,b=0.5:ram") for scale in (0.0, 0.5, 1.0)]
    assert all(row["perplexity"] > 1 for row in rows)


def test_a_table_is_printed_beside_the_files(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "plot")}
    assert run([*arguments, *(f"--{kind}={path}" for kind, path in files.items())]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert len(json.loads(files["json"].read_text())["rows"]) == 3
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--blend", "a=1,c=1"], 1, "expected the name of an adapter (a, b), got 'c'"),
        (["--metric", "exact-match"], 1, "data text.txt: expected prompts and completions"),
        (["--blend", "a"], 2, "expected NAME=SCALE, got 'a'"),
        (["--blend", "a=x"], 2, "expected a number, got 'x'"),
        (["--blend", "a=1:median"], 2, "got 'median'"),
        (["--scales", "0,,1"], 2, "expected a number"),
        (["--metric", "bleu"], 2, "bleu"),
        (["--held-out", "1"], 2, "held-out"),
        (["--json", "nowhere/out.json"], 1, "json: expected a file in a directory that exists"),
    ],
)
def test_what_is_wrong_is_told_on_standard_error(
    arguments: list[str], more: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, *more]) == code
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_json_cannot_go_over_what_is_read(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("text.txt", "a.safetensors"):
        before = (tmp_path / name).read_bytes()
        assert run([*arguments, "--json", str(tmp_path / name)]) == 1
        assert f"json: expected another file than what is read ({name})" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "blend"),
    [
        ("a=1", BlendSpec(members=(("a", 1.0),))),
        ("a=1, b=-0.5:ram", BlendSpec(members=(("a", 1.0), ("b", -0.5)), fusion=Fusion(method="ram"))),
        ("x/a=1:ties:0.2", BlendSpec(members=(("x/a", 1.0),), fusion=Fusion(method="ties", density=0.2))),
    ],
)
def test_a_blend_is_read_as_it_is_written(text: str, blend: BlendSpec) -> None:
    assert parse_blend(text) == blend
    assert parse_blend(blend.title) == blend


def test_every_choice_is_offered_and_every_option_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert (module.METRICS, set(module.PRECISIONS)) == (METRICS, set(PRECISIONS))
    assert run(["eval", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in evaluate.params:
        assert isinstance(option, click.Option)
        assert option.help, option.name
    given = {option.name for option in evaluate.params}
    assert {field.name for field in fields(EvalOptions)} - {"model_dir"} <= given
    assert "[default: perplexity]" in text
    assert "[default: 128]" in text
