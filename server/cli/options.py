"""Options that several commands share, and options whose defaults live in a dataclass of ``adapters_store.tools``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from server.core.config import ServerConfig, env_name

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def model_option(what: str, *, flag: str = "--model") -> Decorator:
    """The server's own setting, from the command line or the environment."""
    default = ServerConfig.model_fields["model"].default
    return click.option(
        flag,
        help=f"{what}: a directory, a hub id or the default's name.  [env: {env_name('model')}]  [default: {default}]",
    )


def field_option(dataclass: str) -> Callable[..., Decorator]:
    """``click.option`` for fields of ``"module:Class"``. The help shows the field's default; the module, torch with it,
    is imported only for that. What is not given is None (or an empty tuple): the dataclass knows its defaults."""
    module, _, name = dataclass.partition(":")

    class FieldOption(click.Option):
        def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
            record = super().get_help_record(ctx)
            known = {field.name: field.default for field in fields(getattr(importlib.import_module(module), name))}
            default = known.get(self.name or "")
            if record is None or default in (None, (), False):
                return record
            shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
            return record[0], f"{record[1]}  [default: {shown}]"

    def option(*names: str, **attributes: Any) -> Decorator:
        return click.option(*names, cls=FieldOption, **attributes)

    return option


def keep_loading_quiet() -> None:
    """Off a terminal, transformers' bar of loaded weights is noise among log lines."""
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
