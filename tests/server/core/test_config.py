from __future__ import annotations

from pathlib import Path

import pytest

from server.core.config import ENV_ONLY, ServerConfig, env_name, flag_name, load_config, unknown_variables
from server.core.errors import ConfigError
from server.engine.limits import Limits

WRONG = {
    "dtype": "int4",
    "device": "tpu",
    "threads": "0",
    "port": "70000",
    "redis": "reds://host",
    "host_budget_bytes": "2 foo",
    "device_budget_bytes": "-1",
    "redis_values_budget_bytes": "x",
    "max_body_bytes": "1",
    "max_queue": "0",
    "max_batch": "many",
    "max_step_tokens": "0",
    "schedule": "always",
    "max_slowdown": "0.9",
    "patience_steps": "0",
    "calibrate": "perhaps",
    "max_new_tokens": "0",
    "max_prompt_tokens": "1.5",
    "default_deadline_ms": "0",
    "max_deadline_ms": "soon",
    "delete_wait_s": "-1",
    "drain_s": "nan",
    "api_keys_file": "/nowhere/keys.toml",
    "allow_insecure_bind": "perhaps",
    "otlp_endpoint": "collector:4318",
    "trace_ratio": "1.5",
    "log_format": "xml",
    "log_level": "loud",
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "shira.toml", "port = 1\nmax_queue = 1\nmax_batch = 1\n")
    environ = {"SHIRA_PORT": "2", "SHIRA_MAX_QUEUE": "2"}
    config = load_config({"port": "3", "max_queue": None}, environ, file)
    assert (config.port, config.max_queue, config.max_batch) == (3, 2, 1)
    assert config.model == ServerConfig(data_dir=tmp_path).model


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = write(tmp_path / "shira.toml", 'model = "somewhere"\n')
    assert load_config({}, {"SHIRA_CONFIG": str(file)}).model == "somewhere"


@pytest.mark.parametrize(("key", "value"), WRONG.items())
def test_a_wrong_value_is_reported_with_its_key_its_value_and_every_kind_of_source(
    key: str, value: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "shira.toml", f'{key} = "{value}"\n')
    for flags, environ, path, source in (
        ({key: value}, {}, None, f"flag {flag_name(key)}"),
        ({}, {env_name(key): value}, None, f"environment variable {env_name(key)}"),
        ({}, {}, file, f"config file {file}"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(flags, environ, path)
        assert str(caught.value).startswith(f"{source}: {key} = {value!r}: ")


def test_the_engine_and_the_settings_agree_on_what_holds_by_default(tmp_path: Path) -> None:
    config, limits = ServerConfig(data_dir=tmp_path), Limits()
    for name in ("max_queue", "max_batch", "max_step_tokens", "schedule", "max_slowdown", "patience_steps"):
        assert getattr(config, name) == getattr(limits, name), name


def test_unknown_keys_of_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prot = '1': is not a setting"):
        load_config({}, {}, write(tmp_path / "shira.toml", "prot = 1\n"))


@pytest.mark.parametrize("text", ["port = ", "\x00"])
def test_a_file_that_is_no_toml_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({}, {}, write(tmp_path / "shira.toml", text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({}, {}, tmp_path / "none.toml")


def test_secrets_are_read_from_the_environment_only(tmp_path: Path) -> None:
    file = write(tmp_path / "shira.toml", 'api_keys = "hush:admin"\n')
    with pytest.raises(ConfigError, match="environment only") as caught:
        load_config({}, {}, file)
    assert "hush" not in str(caught.value)
    assert {"api_keys"} == ENV_ONLY


def test_an_empty_variable_counts_as_absent() -> None:
    assert load_config({}, {"SHIRA_PORT": "", "SHIRA_CONFIG": ""}).port == 8000


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1024", 1024), ("2GiB", 2 * 1024**3), ("500 MB", 500_000_000), ("1.5KiB", 1536), ("3tib", 3 * 1024**4)],
)
def test_byte_sizes_take_units(text: str, num_bytes: int) -> None:
    assert load_config({"host_budget_bytes": text}, {}).host_budget_bytes == num_bytes


@pytest.mark.parametrize("value", [True, 1.5])
def test_a_number_of_the_wrong_kind_in_the_file_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_queue"):
        load_config({}, {}, write(tmp_path / "shira.toml", f"max_queue = {str(value).lower()}\n"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert load_config({"host": host}, {}).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])  # noqa: S104
def test_any_other_address_needs_a_key_or_an_explicit_word(host: str) -> None:
    with pytest.raises(ConfigError, match=r"flag --host: .* without an API key"):
        load_config({"host": host}, {})
    assert not load_config({"host": host}, {"SHIRA_API_KEYS": "s:admin"}).is_loopback
    assert not load_config({"host": host, "allow_insecure_bind": True}, {}).is_loopback


def test_the_default_deadline_may_not_exceed_the_longest() -> None:
    with pytest.raises(ConfigError, match="must not exceed max_deadline_ms, which is 1000"):
        load_config({"max_deadline_ms": "1000"}, {})


@pytest.mark.parametrize(
    "url", ["http://:hush@host", "http://:a/hush@host", "user:hush@host", "http://h?password=hush"]
)
def test_a_password_in_a_url_is_never_printed(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"redis": url}, {})
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(load_config({"redis": "redis://:hush@host:6379/0"}, {}))


def test_the_variable_that_kubernetes_sets_for_a_service_is_explained() -> None:
    with pytest.raises(ConfigError, match="enableServiceLinks"):
        load_config({}, {"SHIRA_PORT": "tcp://10.0.0.7:8000"})


def test_misspelt_variables_are_listed() -> None:
    environ = {"SHIRA_PRT": "1", "SHIRA_PORT": "1", "SHIRA_KEY": "k", "HOME": "/"}
    assert unknown_variables(environ) == ["SHIRA_PRT"]


@pytest.mark.parametrize(("home", "under"), [("/data", Path("/data")), ("", Path.home() / ".local" / "share")])
def test_the_data_directory_follows_the_data_home(home: str, under: Path) -> None:
    assert load_config({}, {"XDG_DATA_HOME": home}).data_dir == under / "shira"
