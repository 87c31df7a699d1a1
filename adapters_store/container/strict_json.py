"""JSON as a hostile client writes it: one meaning or none."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from adapters_store.errors import AdapterRejected, LimitExceeded


def parse_json(text: bytes | memoryview, *, what: str, max_depth: int) -> object:
    """The value of a UTF-8 JSON text. Duplicate keys, NaN, infinities, lone surrogates, trailing text and nesting
    past ``max_depth`` are refused. Raises AdapterRejected or LimitExceeded with ``what`` as the tensor."""
    too_deep = LimitExceeded("json_depth", tensor=what, expected=f"at most {max_depth}", got="deeper nesting")
    raw = bytes(text)
    try:
        value: object = _decoder.decode(raw.decode())
    except RecursionError:
        raise too_deep from None
    except ValueError as error:  # bad UTF-8, bad JSON, a number of thousands of digits, and the refusals below
        raise AdapterRejected("json", tensor=what, expected="one JSON value in UTF-8", got=str(error)) from None
    if _is_deeper(value, max_depth):
        raise too_deep
    if b"\\u" in raw and _has_lone_surrogate(value):
        raise AdapterRejected("json", tensor=what, expected="Unicode text", got="a lone surrogate")
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        unseen = set(value)
        for key, _ in pairs:
            if key not in unseen:
                raise ValueError(f"the key {key[:80]!a} twice in one object")
            unseen.remove(key)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]}, which no float holds")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse_constant)


def _is_deeper(value: object, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    match value:
        case dict():
            return [child for child in value.values() if isinstance(child, dict | list)]
        case list():
            return [child for child in value if isinstance(child, dict | list)]
        case _:
            return []


def _has_lone_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
