from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from server.core.config import load_config
from server.core.errors import ConfigError
from server.core.keys import find_key, parse_keys, read_keys_file

SECRET = "correct-horse"


def test_a_key_is_found_by_its_secret_and_by_no_other() -> None:
    keys = parse_keys(f"{SECRET}:generate:acme,other:admin")
    found = find_key(keys, SECRET)
    assert found is not None
    assert (found.role, found.tenant) == ("generate", "acme")
    assert find_key(keys, SECRET + " ") is None
    assert find_key((), SECRET) is None


def test_admin_may_generate_but_not_the_other_way_round() -> None:
    generate, admin = parse_keys("a:generate,b:admin")
    assert admin.may("generate")
    assert not generate.may("admin")


def test_neither_secret_nor_hash_is_ever_printed() -> None:
    config = load_config({}, {"SHIRA_API_KEYS": f"{SECRET}:admin"})
    digest = hashlib.sha256(SECRET.encode())
    for text in (repr(config), str(config), repr(config.api_keys)):
        assert SECRET not in text
        assert digest.hexdigest() not in text
        assert repr(digest.digest()) not in text


@pytest.mark.parametrize(
    "text", ["hush", "hush:root", ":admin", "hush:admin:a:b", "hush:admin:", "a:admin,", "hush:admin:a/b"]
)
def test_a_malformed_list_is_refused_without_printing_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({}, {"SHIRA_API_KEYS": text})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("secret", ["hush ", "hu sh", "hush\t", "hu\nsh", "hush\x00", "hush\xa0"])
def test_a_secret_that_a_header_does_not_carry_whole_is_refused_without_printing_it(secret: str) -> None:
    """The server started, and the key opened nothing."""
    with pytest.raises(ConfigError, match="entry 2: expected a secret without white space") as caught:
        load_config({}, {"SHIRA_API_KEYS": f"sound:admin, {secret}:admin"})
    assert "hu" not in str(caught.value)


def test_the_hash_of_no_secret_at_all_is_refused(tmp_path: Path) -> None:
    """It is what sha256sum gives for a variable that is not set."""
    path = tmp_path / "keys.toml"
    path.write_text(f"[[keys]]\nsha256 = '{hashlib.sha256(b'').hexdigest()}'\nrole = 'admin'\n")
    with pytest.raises(ValueError, match="entry 1: expected the sha256 of a secret, got that of an empty one"):
        read_keys_file(path)


def test_the_same_secret_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_keys("a:admin,a:generate")


def test_a_keys_file_holds_hashes(tmp_path: Path) -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    path = tmp_path / "keys.toml"
    path.write_text(f'[[keys]]\nsha256 = "{digest}"\nrole = "generate"\n')
    config = load_config({"api_keys_file": str(path)}, {"SHIRA_API_KEYS": "more:admin"})
    assert [key.role for key in config.api_keys] == ["admin", "generate"]
    assert find_key(config.api_keys, SECRET) is not None


def test_a_key_has_the_weight_that_the_file_gives_it_or_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    entries = [("ab", "weight = 2.5"), ("cd", "weight = 3"), ("ef", "")]
    path.write_text("".join(f'[[keys]]\nsha256 = "{two * 32}"\nrole = "generate"\n{more}\n' for two, more in entries))
    assert [key.weight for key in read_keys_file(path)] == [2.5, 3.0, 1.0]
    assert [key.weight for key in parse_keys("a:admin")] == [1.0]


@pytest.mark.parametrize("weight", ["0", "-1", "1000.1", "nan", "inf", "true", "'2'"])
def test_a_weight_that_is_no_share_is_refused_with_the_limit(weight: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f"[[keys]]\nsha256 = '{'ab' * 32}'\nrole = 'admin'\nweight = {weight}\n")
    with pytest.raises(ValueError, match="entry 1: the weight must be a number above 0 and at most 1000, got"):
        read_keys_file(path)


def test_every_key_is_a_client_of_its_own_that_does_not_change() -> None:
    first, second = parse_keys("a:generate,b:generate")
    assert first.client != second.client
    assert parse_keys("a:admin:acme")[0].client == first.client


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys = 1",
        "[[keys]]\nrole = 'admin'",
        "[[keys]]\nsha256 = 'ab'\nrole = 'admin'",
        f"[[keys]]\nsha256 = '{'ab' * 32}'\nrole = 'root'",
        f"[[keys]]\nsha256 = '{'ab' * 32}'\nrole = 'admin'\nsecret = 'x'",
        f"[[keys]]\nsha256 = '{'ab' * 32}'\nrole = 'admin'\ntenant = 7",
    ],
)
def test_a_malformed_keys_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"entry 1|\[\[keys\]\]"):
        read_keys_file(path)
