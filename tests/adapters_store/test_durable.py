"""What a power cut must not take back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters_store.durable import write_durably


def test_every_directory_that_a_write_makes_is_synced_into_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/dev/fd/{descriptor}").resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_durably(tmp_path / "a" / "b" / "file", [b"x"], tmp_dir=tmp_path)
    root = tmp_path.resolve()
    assert [path for path in synced if path.is_dir()] == [root, root / "a", root / "a" / "b"]
