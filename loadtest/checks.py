"""Is an answer what was asked for? Every check returns what is wrong, or None."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Set
from typing import Any

import httpx
from PIL import Image

from loadtest.outcomes import Ending
from loadtest.trace import Asked, ImageRow, TextRow
from server.api.errors import TABLE

REFUSED_STATUSES, REJECTED_STATUSES = {429, 503, 504}, {400, 413, 415, 422}
FAILED = "engine_died"  # also told to what was accepted: no refusal, whatever the status


def unanswered(status: int, headers: Mapping[str, str], body: bytes) -> tuple[Ending, str] | None:
    """How a request ended, and the code, that got a refusal in the documented shape or an engine that died; None for
    any other answer."""
    code = _documented(REFUSED_STATUSES, status, body)
    if code is None or (status == 429 and "retry-after" not in headers):
        return None
    return ("lost" if code == FAILED else "refused"), code


def rejection(status: int, body: bytes) -> str | None:
    """The code with which a bad file was rejected in the documented shape, None for any other answer."""
    return _documented(REJECTED_STATUSES, status, body)


def problem_of(check: Callable[[], str | None]) -> str | None:
    """What ``check`` says, or what it tripped over: the answer may be anything. Raises httpx.HTTPError."""
    try:
        return check()
    except httpx.HTTPError:
        raise
    except Exception as error:
        return f"not an answer: {type(error).__name__}: {error}"


def wrong_answer(row: TextRow | ImageRow, answer: Any, versions: Mapping[str, Set[str]]) -> str | None:
    """``answer`` is any JSON: of a whole answer, or the last event of a stream. ``versions``: what each adapter may
    have run with."""
    if isinstance(row, TextRow):
        return problem_of(lambda: wrong_text(row, answer, versions))
    return problem_of(lambda: wrong_image(row, answer, versions))


def wrong_text(row: TextRow, answer: Mapping[str, Any], versions: Mapping[str, Set[str]]) -> str | None:
    counted = (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"])
    if counted != (row.prompt_tokens, row.output_tokens):
        return f"tokens: expected {row.prompt_tokens} and {row.output_tokens}, got {counted[0]} and {counted[1]}"
    if answer["finish_reason"] != "length":
        return f"finish_reason: expected length, got {answer['finish_reason']}"
    return wrong_receipt(row, answer["receipt"], versions)


def wrong_image(row: ImageRow, answer: Mapping[str, Any], versions: Mapping[str, Set[str]]) -> str | None:
    if len(answer["images"]) != 1:
        return f"images: expected 1, got {len(answer['images'])}"
    image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0]["b64"], validate=True)))
    image.load()
    if (image.format, image.size) != ("PNG", (row.side, row.side)):
        return f"image: expected PNG of {row.side}×{row.side}, got {image.format} of {image.size[0]}×{image.size[1]}"
    if answer["usage"] != {"num_steps": row.num_steps, "num_images": 1}:
        return f"usage: expected {row.num_steps} steps of 1 image, got {answer['usage']}"
    return wrong_receipt(row, answer["receipt"], versions)


def wrong_receipt(row: Asked, receipt: Mapping[str, Any], versions: Mapping[str, Set[str]]) -> str | None:
    applied = {one["name"]: one for one in receipt["adapters"]}
    if applied.keys() != set(row.adapters) or len(receipt["adapters"]) != len(row.adapters):
        return f"adapters: expected {list(row.adapters)}, got {[one['name'] for one in receipt['adapters']]}"
    for name, one in applied.items():
        if one["scale"] != row.scale:
            return f"scale of {name}: expected {row.scale}, got {one['scale']}"
        if one["version"] not in versions[name]:
            return f"version of {name}: expected {' or '.join(sorted(versions[name]))}, got {one['version']}"
    return None


def _documented(statuses: Set[int], status: int, body: bytes) -> str | None:
    codes = {row.code for row in TABLE.values() if row.status == status} if status in statuses else set()
    try:
        error = json.loads(body)["error"]
        is_whole = {"type", "code", "message", "param"} <= error.keys() and bool(error["message"])
        return str(error["code"]) if is_whole and error["code"] in codes else None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None
