"""Turns what a validated body of any kind says into the part that all requests to the engine share: names to versions,
deadlines, limits."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from typing import TypedDict

from adapters_store.adapter import Version
from adapters_store.blend import Blend, BlendMember, Fusion
from server.api.schemas import AdapterRef, GenerationBody
from server.api.services import Services
from server.core.errors import RequestRejected
from server.core.keys import ApiKey
from server.core.requests import AppliedAdapter, RequestId


class Admitted(TypedDict):
    """The fields of a ``GenerationRequest`` that do not depend on what it generates."""

    id: RequestId
    tenant: str
    client: str
    weight: float
    blend: Blend
    adapters: tuple[AppliedAdapter, ...]
    arrived_s: float
    deadline_s: float


async def admit(
    services: Services, key: ApiKey, body: GenerationBody, fusion: Fusion, held: AsyncExitStack
) -> Admitted:
    """Raises RequestRejected, BlendRejected or AdapterNotFound.

    The versions stay held until ``held`` closes, so that a delete waits for the requests."""
    arrived_s = services.now()
    deadline_ms = _deadline_ms(services, body)
    adapters = tuple([await _hold(services, key.tenant, ref, held) for ref in body.adapter_refs])
    members = tuple(BlendMember(version=adapter.version, scale=adapter.scale) for adapter in adapters)
    return Admitted(
        id=RequestId(f"gen-{uuid.uuid4().hex}"),
        tenant=key.tenant,
        client=key.client,
        weight=key.weight,
        blend=Blend(members=members, fusion=fusion),
        adapters=adapters,
        arrived_s=arrived_s,
        deadline_s=arrived_s + deadline_ms / 1e3,
    )


def nth_id(first: RequestId, place: int) -> RequestId:
    """Of a further answer to the same body."""
    return RequestId(f"{first}-{place}")


def check_at_most(limit: int, got: int, *, param: str) -> None:
    """Raises RequestRejected naming the limit."""
    if got > limit:
        raise RequestRejected(f"{param}: at most {limit}, got {got}", param=param)


def _deadline_ms(services: Services, body: GenerationBody) -> int:
    if body.deadline_ms is None:
        return services.config.default_deadline_ms
    check_at_most(services.config.max_deadline_ms, body.deadline_ms, param="deadline_ms")
    return body.deadline_ms


async def _hold(services: Services, tenant: str, ref: AdapterRef, held: AsyncExitStack) -> AppliedAdapter:
    version = await services.workers.quick(_resolve_and_hold, services, tenant, ref)
    held.callback(services.store.unhold, version)  # here, not on a thread: there may be none to be had
    return AppliedAdapter(name=ref.name, version=version, scale=ref.scale)


def _resolve_and_hold(services: Services, tenant: str, ref: AdapterRef) -> Version:
    """Looks the version up again once it is held: a delete in between has not seen the hold and did not wait."""
    store = services.store
    version = store.resolve(tenant, ref.name, Version(ref.version) if ref.version else None)
    store.hold(version)
    try:
        return store.resolve(tenant, ref.name, version)
    except BaseException:
        store.unhold(version)
        raise
