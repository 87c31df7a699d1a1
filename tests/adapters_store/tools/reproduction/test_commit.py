from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from adapters_store.tools.reproduction.commit import commit


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for command in (["init", "--quiet"], ["config", "user.name", "a"], ["config", "user.email", "a@localhost"]):
        git(tmp_path, *command)
    return tmp_path


def test_the_files_given_are_committed_and_nothing_else_that_is_staged(repository: Path) -> None:
    for name in ("cell.json", "other.txt"):
        (repository / name).write_text("x")
    git(repository, "add", "other.txt")
    assert commit([repository / "cell.json"], "Measure a cell")
    assert git(repository, "show", "--name-only", "--format=%s").split() == ["Measure", "a", "cell", "cell.json"]
    assert git(repository, "status", "--porcelain").split() == ["A", "other.txt"]


def test_outside_a_repository_nothing_is_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cell.json").write_text("x")
    assert not commit([tmp_path / "cell.json"], "Measure a cell")
    assert "cell.json not committed" in caplog.text


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout
