"""Where settings come from: flag > environment > config file > default. The only reader of ``SHIRA_*`` settings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.core.errors import ConfigError
from server.core.keys import ApiKey, read_keys_file
from server.core.settings import ServerConfig
from server.core.tracing import can_trace

__all__ = [
    "ENV_ONLY", "ServerConfig", "default_data_dir", "env_name", "flag_name", "load_config", "unknown_variables",
]  # fmt: skip

ENV_PREFIX = "SHIRA_"
ENV_ONLY = frozenset({"api_keys"})  # secrets do not belong on a command line or in a file
WITH_PASSWORD = frozenset({"redis", "otlp_endpoint"})  # perhaps
NOT_SETTINGS = frozenset({"SHIRA_CONFIG", "SHIRA_KEY", "SHIRA_URL"})  # read by the command line itself

Sourced = dict[str, tuple[Any, str]]  # key -> (raw value, where it came from)


def load_config(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> ServerConfig:
    """``flags`` maps settings to values, None where a flag was not given. ``file`` defaults to ``$SHIRA_CONFIG``.

    Raises ConfigError naming key, value and source of the first setting that is wrong."""
    if file is None and environ.get("SHIRA_CONFIG"):
        file = Path(environ["SHIRA_CONFIG"])
    sourced: Sourced = {"data_dir": (default_data_dir(environ), "default")}
    if file is not None:
        sourced |= _from_file(file)
    sourced |= _from_environ(environ)
    sourced |= _from_flags(flags)
    config = _parse(sourced)
    config = _with_keys_file(config, sourced)
    _check_together(config, sourced)
    return config


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_DATA_HOME/shira``, by default ``~/.local/share/shira``."""
    home = Path(environ.get("XDG_DATA_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "share") / "shira"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """``SHIRA_*`` variables that are no setting: perhaps misspelt, perhaps set by an orchestrator for a service."""
    known = {env_name(key) for key in ServerConfig.model_fields} | NOT_SETTINGS
    return sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)


def env_name(key: str) -> str:
    return ENV_PREFIX + key.upper()


def flag_name(key: str) -> str:
    return "--" + key.replace("_", "-")


def _from_file(file: Path) -> Sourced:
    source = f"config file {file}"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(key="config", value=str(file), source=source, problem=f"cannot be read: {error}") from error
    for key, value in document.items():
        if key not in ServerConfig.model_fields or key in ENV_ONLY:
            shown = "***" if key in ENV_ONLY else str(value)
            allowed = "is read from the environment only" if key in ENV_ONLY else "is not a setting"
            raise ConfigError(key=key, value=shown, source=source, problem=allowed)
    return {key: (value, source) for key, value in document.items()}


def _from_environ(environ: Mapping[str, str]) -> Sourced:
    """An empty variable counts as absent."""
    named = {key: env_name(key) for key in ServerConfig.model_fields}
    return {key: (environ[name], f"environment variable {name}") for key, name in named.items() if environ.get(name)}


def _from_flags(flags: Mapping[str, object]) -> Sourced:
    return {key: (value, f"flag {flag_name(key)}") for key, value in flags.items() if value is not None}


def _parse(sourced: Sourced) -> ServerConfig:
    try:
        return ServerConfig.model_validate({key: value for key, (value, _) in sourced.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = str(first["loc"][0])
        raise _config_error(sourced, key, first["msg"].removeprefix("Value error, ")) from error


def _config_error(sourced: Sourced, key: str, problem: str, default: object = "") -> ConfigError:
    value, source = sourced.get(key, (default, "default"))
    if key == "port" and str(value).startswith("tcp://"):
        problem += "; Kubernetes sets this variable for a Service named shira: set enableServiceLinks: false"
    return ConfigError(key=key, value=_shown(key, value), source=source, problem=problem)


def _shown(key: str, value: object) -> str:
    """The value as it may be printed: API keys never, of a URL that may hold a password its scheme alone."""
    if key == "api_keys":
        return "***"
    return re.sub(r"^(\w*://)?.*[@?].*", r"\1***", str(value)) if key in WITH_PASSWORD else str(value)


def _with_keys_file(config: ServerConfig, sourced: Sourced) -> ServerConfig:
    if config.api_keys_file is None:
        return config
    try:
        keys: tuple[ApiKey, ...] = read_keys_file(config.api_keys_file)
    except ValueError as error:
        raise _config_error(sourced, "api_keys_file", str(error)) from error
    if {key.digest for key in keys} & {key.digest for key in config.api_keys}:
        raise _config_error(sourced, "api_keys_file", "holds a key that SHIRA_API_KEYS holds as well")
    return config.model_copy(update={"api_keys": config.api_keys + keys})


def _check_together(config: ServerConfig, sourced: Sourced) -> None:
    if config.otlp_endpoint is not None and not can_trace():
        problem = "needs the extra tracing: pip install 'shira-server[tracing]'"
        raise _config_error(sourced, "otlp_endpoint", problem)
    if config.default_deadline_ms > config.max_deadline_ms:
        problem = f"must not exceed max_deadline_ms, which is {config.max_deadline_ms}"
        raise _config_error(sourced, "default_deadline_ms", problem, config.default_deadline_ms)
    if not config.is_loopback and not config.api_keys and not config.allow_insecure_bind:
        problem = (
            "would be reachable from other machines without an API key: set SHIRA_API_KEYS or api_keys_file, "
            "or allow_insecure_bind to accept that"
        )
        raise _config_error(sourced, "host", problem, config.host)
