"""``GET /overlap``: how likely two adapters are to disturb each other when they are fused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from adapters_store.adapter import Adapter
from adapters_store.fusion import Overlap, overlap
from server.api.auth import Key
from server.api.dependencies import ServicesDep
from server.api.schemas import AdapterName
from server.api.services import Services

router = APIRouter(tags=["adapters"])


class OverlapView(BaseModel):
    """Counts are positions of single weights. ``delta_cosine`` is null when one of the deltas is all zero."""

    adapters: list[str]
    shared: int
    only_first: int
    only_second: int
    sign_conflicts: int
    delta_cosine: float | None


@router.get("/overlap")
async def overlap_of_two(
    services: ServicesDep, key: Key, adapter: Annotated[list[AdapterName], Query(min_length=2, max_length=2)]
) -> OverlapView:
    """Takes ``adapter`` twice. Few shared positions, few sign conflicts, a cosine near 0: they can be fused."""
    first, second = adapter
    found = await services.workers.heavy(_compare, services, key.tenant, first, second)
    return OverlapView(
        adapters=adapter,
        shared=found.shared,
        only_first=found.only_a,
        only_second=found.only_b,
        sign_conflicts=found.sign_conflicts,
        delta_cosine=found.delta_cosine,
    )


def _compare(services: Services, tenant: str, first: str, second: str) -> Overlap:
    with _adapter(services, tenant, first) as a, _adapter(services, tenant, second) as b:
        return overlap(a, b)


@contextmanager
def _adapter(services: Services, tenant: str, name: str) -> Iterator[Adapter]:
    adapter = services.store.acquire(services.store.resolve(tenant, name))
    try:
        yield adapter
    finally:
        services.store.release(adapter)
