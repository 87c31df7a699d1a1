"""The reader of Dockerfiles does what an engine does with the instructions that it knows, and refuses the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.image.config import configs_of
from deploy.image.context import MissingSource, copy_sent, files_sent, under
from deploy.image.dockerfile import Dockerfile, NotUnderstood, read_dockerfile
from deploy.image.variables import expand


def read(folder: Path, text: str) -> Dockerfile:
    (folder / "Dockerfile").write_text(text)
    return read_dockerfile(folder / "Dockerfile")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a-$b", "1-"),
        ("${a}2", "12"),
        ("${b:-no}", "no"),
        ("${a:-no}", "1"),
        ("${a:+yes}${b:+yes}", "yes"),
    ],
)
def test_variables_are_those_of_an_engine(text: str, expected: str) -> None:
    assert expand(text, {"a": "1", "b": ""}) == expected


@pytest.mark.parametrize("text", ["${a#x}", "$(a)", "${a:?no}"])
def test_other_references_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        expand(text, {"a": "1"})


def test_a_build_runs_only_the_stages_that_its_target_needs(tmp_path: Path) -> None:
    file = read(tmp_path, "FROM x AS a\nFROM x AS b\nFROM b AS c\nCOPY --from=a /q /q\nFROM c AS d\nFROM x AS e\n")
    assert [stage.name for stage in file.needed_for("d")] == ["a", "b", "c", "d"]
    assert [stage.name for stage in file.needed_for("b")] == ["b"]
    with pytest.raises(NotUnderstood, match="expected one of a, b, c, d, e, got f"):
        file.needed_for("f")


def test_arguments_end_with_their_stage_and_the_environment_goes_on(tmp_path: Path) -> None:
    file = read(tmp_path, "FROM x AS a\nARG one=1\nENV two=$one three='3 4'\nFROM a AS b\nENV four=[$one$two]\n")
    config = configs_of(file, "b", {"one": "9"})["b"]
    assert {name: config.environment[name] for name in ("two", "three", "four")} == {
        "two": "9",
        "three": "3 4",
        "four": "[9]",
    }


def test_an_argument_before_the_first_stage_is_taken_up_by_name(tmp_path: Path) -> None:
    file = read(tmp_path, "ARG image=x\nFROM ${image} AS a\nENV before=[$image]\nARG image\nENV after=$image\n")
    assert file.stages["a"].base == "x"
    environment = configs_of(file, "a", {})["a"].environment
    assert (environment["before"], environment["after"]) == ("[]", "x")


def test_an_entry_point_forgets_the_command_of_the_base(tmp_path: Path) -> None:
    file = read(tmp_path, 'FROM x AS a\nCMD ["old"]\nFROM a AS b\nENTRYPOINT ["new"]\nWORKDIR /w\nWORKDIR v\n')
    config = configs_of(file, "b", {})["b"]
    assert config.process == ("new",)
    assert str(config.folder) == "/w/v"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FROM x AS a\nADD y /y\n", "line 2: ADD"),
        ("FROM x AS a\nSHELL ['sh']\n", "line 2: SHELL"),
        ("FROM x AS a\nRUN --mount=type=cache,target=/c true\n", "line 2: RUN: --mount"),
        ("FROM x AS a\nCOPY --chown=1:1 y /y\n", "line 2: COPY: --chown"),
        ("FROM x AS a\nRUN <<E\ntrue\nE\n", "line 2: RUN"),
        ("FROM x AS a\nCMD serve\n", "line 2: CMD: expected a JSON array"),
        ("FROM x\nRUN true\n", "line 1: expected FROM image AS name"),
        ("ENV a=1\nFROM x AS a\n", "line 1: expected FROM or ARG first"),
    ],
)
def test_what_it_does_not_execute_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(NotUnderstood, match=told):
        read(tmp_path, text)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in ("kept/a.py", "kept/deep/b.py", "kept/deep/__pycache__/b.pyc", "kept/c.so", "secret/key", "one", "two"):
        path = tmp_path / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "context" / ".dockerignore").write_text("*\n!kept\n!one\n!two\n**/__pycache__\n**/*.so\n")
    return tmp_path / "context"


def test_what_is_left_out_cannot_be_copied(context: Path) -> None:
    sent = files_sent(context)
    assert {str(path) for path in sent} - {"Dockerfile", ".dockerignore"} == {
        "kept/a.py",
        "kept/deep/b.py",
        "one",
        "two",
    }
    with pytest.raises(MissingSource, match="COPY secret"):
        under("secret", sent)


def test_copying_puts_files_into_folders_and_the_content_of_folders(context: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    copy_sent(context, ["one", "two"], root, is_folder=True)
    copy_sent(context, ["kept"], root / "named", is_folder=False)
    copy_sent(context, ["one"], root / "renamed", is_folder=False)
    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert found == {
        "one": "one",
        "two": "two",
        "named/a.py": "kept/a.py",
        "named/deep/b.py": "kept/deep/b.py",
        "renamed": "one",
    }
