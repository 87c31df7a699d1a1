from __future__ import annotations

from pathlib import Path

import pytest

from deploy.monitoring.ops_tools import ToolsUnavailable, fetch_tools, find_tools


def programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 100\n")
        (folder / name).chmod(0o755)
    return folder


def test_what_is_on_path_is_preferred_to_what_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = programs(tmp_path / "ops" / "root" / "usr" / "bin", "prometheus", "promtool")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    found = find_tools(tmp_path / "ops")
    assert found is not None
    assert found.prometheus == fetched / "prometheus"
    monkeypatch.setenv("PATH", str(programs(tmp_path / "bin", "prometheus", "promtool")))
    assert fetch_tools(tmp_path / "ops").promtool == tmp_path / "bin" / "promtool"


def test_one_without_the_other_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs(tmp_path / "bin", "prometheus")))
    assert find_tools(tmp_path / "ops") is None


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolsUnavailable, match="put prometheus and promtool on PATH"):
        fetch_tools(tmp_path / "ops")


def test_an_apt_that_cannot_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that ends with 100, as apt-get does where nothing can be reached."""
    monkeypatch.setenv("PATH", str(programs(tmp_path / "bin", "apt-get", "dpkg-deb")))
    with pytest.raises(ToolsUnavailable, match=r"apt-get: .*\n?could not fetch prometheus"):
        fetch_tools(tmp_path / "ops")
    assert not list((tmp_path / "ops").iterdir())
