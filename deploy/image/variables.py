"""The variables of a Dockerfile outside RUN, whose shell has its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^${}]*))?\})")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$name``, ``${name}``, ``${name:-default}`` and ``${name:+instead}``. Raises ValueError on any other ``$``."""

    def value(reference: re.Match[str]) -> str:
        bare, braced, operator, word = reference.groups()
        got = variables.get(bare or braced, "")
        match operator:
            case "-":
                return got or word
            case "+":
                return word if got else ""
            case _:
                return got

    if "$" in _REFERENCE.sub("", text):
        raise ValueError(f"expected $name or ${{name}}, got {text}")
    return _REFERENCE.sub(value, text)
