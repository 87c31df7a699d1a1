"""Deleting an adapter: the name at once, the bytes as soon as nothing uses them, whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from adapters_store.adapter import Version
from server.api.errors import DeletePending
from server.api.services import Services


async def free_versions(services: Services, versions: Sequence[Version]) -> list[Version]:
    """Returns once the memory of all is free: those that no name refers to again meanwhile.

    Raises DeletePending when requests hold one for longer than the configured wait; it is freed when they end."""
    tasks = [services.background.start(_free(services, version)) for version in versions]
    if not tasks:
        return []
    _, late = await asyncio.wait(tasks, timeout=services.config.delete_wait_s)
    if late:
        raise DeletePending(num_versions=len(late), waited_s=services.config.delete_wait_s)
    freed = [task.result() for task in tasks]
    return [version for version, is_free in zip(versions, freed, strict=True) if is_free]


async def _free(services: Services, version: Version) -> bool:
    """The engine lets go first, then the store waits for requests that run with the version; what those made the
    engine stage meanwhile goes last."""
    longest_s = services.config.max_deadline_ms / 1e3 + services.config.delete_wait_s
    await services.engine.forget(version)
    is_free = await services.workers.waiting(services.store.destroy, version, timeout_s=longest_s)
    if is_free:
        await services.engine.forget(version)
    return is_free
