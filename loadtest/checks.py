"""Is an answer what was asked for? Every check returns what is wrong, or None."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Set
from typing import Any

from PIL import Image

from loadtest.trace import Asked, ImageRow, TextRow

REFUSALS: Mapping[int, Set[str]] = {
    429: {"queue_full", "deadline_unreachable"},
    503: {"draining", "adapter_unavailable", "base_not_ready", "engine_died"},
    504: {"deadline_exceeded"},
}
REJECTIONS: Mapping[int, Set[str]] = {
    400: {"invalid_request"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"adapter_rejected", "adapter_limit_exceeded", "adapter_base_mismatch"},
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """The code of a refusal in the documented shape, None for any other answer."""
    code = _documented(REFUSALS, status, body)
    return None if status == 429 and "retry-after" not in headers else code


def rejection(status: int, body: bytes) -> str | None:
    """The code with which a bad file was rejected in the documented shape, None for any other answer."""
    return _documented(REJECTIONS, status, body)


def wrong_text(row: TextRow, answer: Mapping[str, Any], versions: Mapping[str, Set[str]]) -> str | None:
    """``answer`` is that of a whole answer, or the last event of a stream. ``versions``: what each adapter may have run
    with."""
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


def _documented(codes: Mapping[int, Set[str]], status: int, body: bytes) -> str | None:
    try:
        error = json.loads(body)["error"]
        is_whole = {"type", "code", "message", "param"} <= error.keys() and bool(error["message"])
        return str(error["code"]) if is_whole and error["code"] in codes.get(status, ()) else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
