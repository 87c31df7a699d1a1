"""``shira serve``: every setting of ``ServerConfig`` is a flag."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from server.core.config import ENV_ONLY, ServerConfig, env_name, flag_name, load_config, unknown_variables
from server.core.waiting import wait_passively


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return "VALUE"


def setting_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds one option per setting. Values stay text: ``load_config`` checks them and names their source."""
    for key, field in reversed(ServerConfig.model_fields.items()):
        if key in ENV_ONLY:
            continue
        shown = "" if field.is_required() or field.default is None else f"  [default: {field.default}]"
        text = f"{field.description}  [env: {env_name(key)}]{shown}"
        if field.annotation is bool:
            declaration = f"{flag_name(key)}/{flag_name('no_' + key)}"
            command = click.option(declaration, key, default=None, help=text)(command)
        else:
            command = click.option(flag_name(key), key, default=None, metavar=_metavar(field.annotation), help=text)(
                command
            )
    return command


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Config file (TOML).  [env: SHIRA_CONFIG]"
)
@setting_flags
def serve(config_file: Path | None, **flags: object) -> None:
    """Start the server. A flag wins over the environment, that over the config file, that over the default.

    SIGTERM and SIGINT drain it, SIGHUP reads the API keys again."""

    def load() -> ServerConfig:
        return load_config(flags, os.environ, config_file)

    for name in unknown_variables(os.environ):
        click.echo(f"Warning: the environment variable {name} is not a setting and is ignored", err=True)
    config = load()
    wait_passively(os.environ)
    from server import app

    app.run(config, load)
