from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from server.core.config import load_config
from server.core.key_ring import KeyRing
from server.core.keys import find_key, hash_secret
from server.core.settings import ServerConfig


def write_keys(path: Path, *secrets: str) -> None:
    path.write_text(
        "".join(f'[[keys]]\nsha256 = "{hash_secret(secret).hex()}"\nrole = "admin"\n' for secret in secrets)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write_keys(path, "old")
    return path


@pytest.fixture
def ring(file: Path) -> KeyRing:
    def load() -> ServerConfig:
        return load_config({"api_keys_file": str(file)}, {"SHIRA_API_KEYS": "fixed:generate", "HOME": "/"})

    return KeyRing(load(), load)


def test_keys_added_to_the_file_open_the_server_and_removed_ones_do_not(ring: KeyRing, file: Path) -> None:
    write_keys(file, "old", "new")
    ring.reread()
    assert all(find_key(ring.keys, secret) for secret in ("fixed", "old", "new"))
    write_keys(file, "new")
    ring.reread()
    assert find_key(ring.keys, "old") is None
    assert all(find_key(ring.keys, secret) for secret in ("fixed", "new"))


@pytest.mark.parametrize("text", ["", "[[keys]", '[[keys]]\nsha256 = "00"\nrole = "admin"\n'])
def test_a_file_that_cannot_be_read_changes_nothing_and_is_told(
    ring: KeyRing, file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = ring.keys
    file.write_text(text)
    with caplog.at_level(logging.ERROR):
        ring.reread()
    assert ring.keys == before
    assert "keys.toml" in caplog.text


def test_settings_without_any_key_do_not_open_a_server_that_has_some(
    ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    before = ring.keys
    ring._reload = lambda: load_config({}, {"HOME": "/"})
    ring.reread()
    assert ring.keys == before
    assert "the settings name none any more" in caplog.text


def test_neither_secrets_nor_their_digests_are_logged(
    ring: KeyRing, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_keys(file, "hush")
    with caplog.at_level(logging.INFO):
        ring.reread()
    assert "2 in force, 1 new or changed, 1 gone" in caplog.text
    assert "hush" not in caplog.text
    assert hash_secret("hush").hex()[:8] not in caplog.text


def test_keys_are_read_again_whenever_somebody_asks_even_after_a_try_that_failed(
    ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    read, tries = threading.Event(), [MemoryError(), None]

    def load() -> ServerConfig:
        if (error := tries.pop(0)) is not None:
            raise error
        read.set()
        return load_config({}, {"HOME": "/"})

    ring._reload = load
    ring.start()
    ring.ask()
    ring.ask()
    assert read.wait(timeout=10)
    assert "MemoryError" in caplog.text
