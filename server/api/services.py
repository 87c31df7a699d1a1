"""What the routes need of the rest of the server, as Protocols on this side; ``app`` hands the real parts in."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from server.api.background import Background
from server.api.traffic import AdapterTraffic
from server.api.workers import Workers
from server.core.key_ring import KeyRing
from server.core.metrics import Metrics
from server.core.pictures import PictureInfo
from server.core.requests import GenerationRequest
from server.core.settings import ServerConfig
from server.core.steps import VerifyReport
from server.core.tracing import NoTracing, Tracing
from server.engine.messages import Event

if TYPE_CHECKING:
    from adapters_store.adapter import Adapter, Fingerprint, Version
    from adapters_store.alias import AliasRecord
    from adapters_store.base import BaseDescription
    from adapters_store.format import ParsedUpload
    from adapters_store.store import PutResult


class Engine(Protocol):
    """The asyncio side of the engine thread. All methods run on the event loop."""

    @property
    def is_alive(self) -> bool: ...

    @property
    def is_draining(self) -> bool: ...

    def generate(self, *requests: GenerationRequest) -> AsyncGenerator[tuple[int, Event], None]:
        """The events of requests that are taken together or not at all, each with its request's place among them.

        Every request ends with a FinishEvent or an ImageEvent, or the first FailEvent ends them all. Raises QueueFull,
        DeadlineUnreachable or Draining at its first step. Closing the iterator aborts what has not ended."""
        ...

    async def verify(self) -> VerifyReport: ...

    async def inspect(self) -> dict[str, Any]: ...

    async def forget(self, version: Version) -> None: ...


class Store(Protocol):
    """The part of ``AdapterStore`` that the routes use. All methods but ``unhold`` may block: call them through
    ``Workers``."""

    def put(
        self,
        parsed: ParsedUpload,
        *,
        tenant: str,
        name: str,
        description: str | None = None,
        tags: tuple[str, ...] | None = None,
        if_match: str | None = None,
    ) -> PutResult: ...

    def get_record(self, tenant: str, name: str) -> AliasRecord: ...

    def list_records(self, tenant: str, *, after: str | None = None, limit: int = 100) -> Sequence[AliasRecord]: ...

    def move(
        self,
        tenant: str,
        name: str,
        *,
        version: Version | None = None,
        description: str | None = None,
        tags: tuple[str, ...] | None = None,
        pinned: bool | None = None,
        if_match: str | None = None,
    ) -> AliasRecord: ...

    def delete(
        self, tenant: str, name: str, *, version: Version | None = None, if_match: str | None = None
    ) -> Sequence[Version]: ...

    def resolve(self, tenant: str, name: str, version: Version | None = None) -> Version: ...

    def acquire(self, version: Version) -> Adapter: ...

    def release(self, adapter: Adapter) -> None: ...

    def hold(self, version: Version) -> None: ...

    def unhold(self, version: Version) -> None: ...

    def destroy(self, version: Version, *, timeout_s: float) -> bool: ...

    def export(self, version: Version) -> Adapter: ...

    def describe(self) -> dict[str, Any]: ...


class Codec(Protocol):
    """Text to tokens. May be called from any thread."""

    def encode(self, prompt: str) -> tuple[int, ...]: ...

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]: ...


class PromptCheck(Protocol):
    """Tells how much of a prompt the text encoders of a picture base read: the first ``max_tokens``, which counts like
    ``num_tokens`` (both with or both without special tokens). One thread at a time calls it, any."""

    @property
    def max_tokens(self) -> int: ...

    def num_tokens(self, prompt: str) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseInfo:
    """The one base model of the process: it writes text, or draws ``pictures``. ``description`` is what uploads are
    checked against. ``max_context_tokens``: prompt and answer of a text together; None for pictures."""

    name: str
    fingerprint: Fingerprint
    dtype: str
    device: str
    max_context_tokens: int | None = None
    description: BaseDescription
    pictures: PictureInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the routes use. ``now`` is the engine's clock: seconds, monotonic. ``codec`` is there for a base that
    writes text, ``prompts`` for one that draws."""

    config: ServerConfig
    keys: KeyRing
    metrics: Metrics
    store: Store
    engine: Engine
    base: BaseInfo
    codec: Codec | None = None
    prompts: PromptCheck | None = None
    now: Callable[[], float] = time.monotonic
    background: Background = field(default_factory=Background)
    workers: Workers = field(default_factory=Workers)
    traffic: AdapterTraffic = field(default_factory=AdapterTraffic)
    tracing: Tracing = field(default_factory=NoTracing)
