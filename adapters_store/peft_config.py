"""The config beside PEFT's weights: data from a client, in which nothing is looked up, imported or fetched."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from adapters_store.container import Limits, parse_json
from adapters_store.errors import AdapterRejected


def check_config(text: bytes, what: str, limits: Limits, *, components: Sequence[str] = ()) -> None:
    """``text`` is one config, or those of several components of a pipeline, each key ``<component>.<key>``.

    Raises AdapterRejected if the tensors do not mean deltas of whole linear layers, LimitExceeded."""
    limits.check("config_bytes", len(text), tensor=what)
    for name, config in _parts(parse_json(text, what=what, max_depth=limits.json_depth), what, components):
        _check_one(config, name)


class _Config(BaseModel):
    """What decides whether the tensors mean what this module takes them for; the rest of the config is training."""

    model_config = ConfigDict(strict=True, extra="ignore")

    peft_type: str
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False


def _parts(config: object, what: str, components: Sequence[str]) -> list[tuple[str, object]]:
    """What each config is called, and what it says."""
    if isinstance(config, dict) and "peft_type" not in config:
        parts: dict[str, dict[str, object]] = {}
        for key, value in config.items():
            component, _, rest = key.partition(".")
            if component in components:
                parts.setdefault(component, {})[rest] = value
        if parts:
            return [(f"{what}.{component}", parts[component]) for component in sorted(parts)]
    return [(what, config)]


def _check_one(content: object, what: str) -> None:
    try:
        config = _Config.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join([what, *(str(part) for part in first["loc"])])[:200]
        got = ascii(first["input"])[:80]
        raise AdapterRejected("config", tensor=where, expected=first["msg"], got=got) from None
    if config.peft_type != "SHIRA":
        raise AdapterRejected(
            "peft_type",
            tensor=what,
            expected="SHIRA (other types have to be converted to a sparse delta first)",
            got=ascii(config.peft_type[:40]),
        )
    if config.modules_to_save:
        raise AdapterRejected(
            "modules_to_save",
            tensor=what,
            expected="none: whole modules are not sparse deltas",
            got=ascii(config.modules_to_save)[:80],
        )
    if config.fan_in_fan_out:
        raise AdapterRejected(
            "fan_in_fan_out", tensor=what, expected="false: SHiRA adapts nn.Linear weights (out, in)", got="true"
        )
