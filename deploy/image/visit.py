"""What a client asks of the container, from outside: is it open to strangers, does it take an adapter and use it."""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

API_KEYS_PLACE = "/run/secrets/api-keys.toml"  # where compose puts the secret


class VisitFailed(Exception):
    """The server answered otherwise than it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A checkpoint, an adapter made for it, and a request for both."""

    name: str
    checkpoint: Path
    adapter: Path
    settings: Mapping[str, str]
    request: Mapping[str, object]


def make_api_keys(file: Path) -> str:
    """An admin's key; the secret of it."""
    secret = secrets.token_hex(24)
    file.write_text(f'[[keys]]\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\nrole = "admin"\n')
    return secret


def visit(url: str, secret: str, base: Base) -> Iterator[str]:
    """What was asked and told, one by one. Raises VisitFailed."""
    with httpx.Client(base_url=url, timeout=120.0, trust_env=False) as client:
        _expect(client.post("/generate", json=dict(base.request)), 401)
        yield "without a key: 401"
        client.headers["Authorization"] = f"Bearer {secret}"
        with base.adapter.open("rb") as file:
            made = _expect(client.post("/adapters", data={"name": "adapter"}, files={"file": file}), 201)
        yield f"upload of {base.adapter.name}: 201, version {made['version'][:19]}…"
        answer = _expect(client.post("/generate", json={**base.request, "adapter": "adapter"}), 200)
        yield f"generation with it: {_told(answer)}"
        [used] = answer["receipt"]["adapters"]
        if used["version"] != made["version"]:
            raise VisitFailed(f"receipt: expected version {made['version']}, got {used['version']}")
        yield f"receipt: {used['name']} at scale {used['scale']}, that version, mode {answer['receipt']['mode']}"
        audit = _expect(client.post("/admin/verify"), 200)
        yield f"audit: {audit['bytes'] >> 20} MiB of weights intact"


def _told(answer: Mapping[str, Any]) -> str:
    if "text" in answer:
        return f"{answer['usage']['completion_tokens']} tokens"
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]["b64"]))) as picture:
        return f"a {picture.format} of {picture.width} × {picture.height} pixels"


def _expect(answer: httpx.Response, status: int) -> Any:
    if answer.status_code != status:
        raise VisitFailed(
            f"{answer.request.url.path}: expected {status}, got {answer.status_code}: {answer.text[:500]}"
        )
    return answer.json()
