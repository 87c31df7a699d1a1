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


def field_option(dataclass: str, **others: str) -> Callable[..., Decorator]:
    """``click.option`` for fields of ``"module:Class"``. The help shows the field's default, and by their keys those of
    ``others`` that differ; the modules, torch with them, are imported only for that. What is not given is None (or an
    empty tuple): the dataclass knows its defaults."""

    class FieldOption(click.Option):
        def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
            record = super().get_help_record(ctx)
            own = _default(dataclass, self.name)
            differing = {key: _default(other, self.name) for key, other in others.items()}
            shown = [own, *(f"{key} {default}" for key, default in differing.items() if default not in (own, ""))]
            if record is None or not any(shown):
                return record
            return record[0], f"{record[1]}  [default: {', '.join(filter(None, shown))}]"

    def option(*names: str, **attributes: Any) -> Decorator:
        return click.option(*names, cls=FieldOption, **attributes)

    return option


def _default(dataclass: str, name: str | None) -> str:
    """As the help shows it; empty for a field that is not there, or that is not set by default."""
    module, _, class_name = dataclass.partition(":")
    known = {field.name: field.default for field in fields(getattr(importlib.import_module(module), class_name))}
    default = known.get(name or "")
    if default in (None, (), False):
        return ""
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def keep_loading_quiet() -> None:
    """Off a terminal, transformers' bar of loaded weights is noise among log lines."""
    if not sys.stderr.isatty():
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
