"""The real application over a real store, with a scripted engine, in one process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from adapters_store.adapter import Adapter
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.format import write_adapter
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from server.api.app import build_api
from server.api.services import BaseInfo, Services
from server.core.config import ServerConfig, load_config
from server.core.key_ring import KeyRing
from server.core.metrics import Metrics
from server.core.pictures import PictureInfo
from server.core.tier_metrics import TierMetrics
from tests.adapters_store.small_adapters import small_adapter
from tests.server.fakes import FINGERPRINT, FakeEngine, WordCodec, WordPrompts

BASE_NAME = "tiny-base"
BASE = BaseDescription(
    fingerprint=FINGERPRINT,
    weights={"layers.0.weight": BaseWeight(name="layers.0.weight", shape=(64, 2048), dtype="float32")},
)
PICTURES = PictureInfo(
    default_height=64,
    default_width=32,
    default_num_steps=4,
    size_multiple=8,
    schedulers=("ddim", "euler"),
    can_preview=True,
    takes_negative_prompt=True,
    takes_guidance_scale=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    app: FastAPI
    client: httpx.AsyncClient
    engine: FakeEngine
    store: AdapterStore
    services: Services
    scratch: Path

    async def push(self, name: str, *, mask: int = 0, values: int = 0, **fields: str) -> httpx.Response:
        data = native_file(self.scratch, small_adapter(mask=mask, values=values, base=FINGERPRINT))
        return await self.client.post("/adapters", data={"name": name, **fields}, files={"file": data})

    async def generate(self, **body: Any) -> httpx.Response:
        return await self.client.post("/generate", json={"prompt": "once upon a time", **body})

    def count(self, name: str, *labels: str) -> float:
        counter = getattr(self.services.metrics, name)
        value: float = (counter.labels(*labels) if labels else counter)._value.get()
        return value


@asynccontextmanager
async def rig(tmp_path: Path, pictures: PictureInfo | None = None, **settings: object) -> AsyncGenerator[Rig, None]:
    """With ``pictures`` the base is one that draws."""
    with_keys = {"SHIRA_API_KEYS": str(settings.pop("api_keys"))} if "api_keys" in settings else {}
    config = load_config({"data_dir": tmp_path / "data", "redis": "off", **settings}, with_keys)
    services, store, engine = make_services(config, pictures)
    app = build_api(services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Rig(app=app, client=client, engine=engine, store=store, services=services, scratch=tmp_path)
    finally:
        store.close()


def make_services(
    config: ServerConfig, pictures: PictureInfo | None = None, engine: FakeEngine | None = None
) -> tuple[Services, AdapterStore, FakeEngine]:
    metrics = Metrics()
    settings = RedisSettings(mode="off")
    store = AdapterStore(StoreConfig(data_dir=config.data_dir, redis=settings), FINGERPRINT, TierMetrics(metrics))
    store.start()
    engine = engine or FakeEngine()
    base = BaseInfo(
        name=BASE_NAME,
        fingerprint=FINGERPRINT,
        dtype="float32",
        device="cpu",
        max_context_tokens=1000 if pictures is None else None,
        description=BASE,
        pictures=pictures,
    )
    services = Services(
        config=config,
        keys=KeyRing(config),
        metrics=metrics,
        store=store,
        engine=engine,
        base=base,
        codec=WordCodec() if pictures is None else None,
        prompts=None if pictures is None else WordPrompts(),
    )
    return services, store, engine


def native_file(scratch: Path, adapter: Adapter) -> bytes:
    path = scratch / "upload.safetensors"
    write_adapter(adapter, path)
    return path.read_bytes()


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error's fields; checks the status and the one shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"type", "code", "message", "param"}, error
    return error


def sse_events(text: str) -> list[Any]:
    """The events of a stream; its end marker stays a string."""
    frames = text.split("\n\n")
    assert frames[-1] == "", "a stream ends with a whole frame"
    data = [frame.removeprefix("data: ") for frame in frames[:-1]]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
