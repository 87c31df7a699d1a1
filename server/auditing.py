"""The base is audited although nobody asks: a bit that flipped in memory is found within the interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from server.core.errors import Draining, EngineDied
from server.core.steps import VerifyReport

log = logging.getLogger(__name__)


async def audit_every(interval_s: float, verify: Callable[[], Awaitable[VerifyReport]]) -> None:
    """Until the engine ends; not at all where ``interval_s`` is 0. The execution counts, logs and acts on what is
    found; an audit that could not be made is logged, and the next one tried."""
    while interval_s:
        await asyncio.sleep(interval_s)
        try:
            await verify()
        except (EngineDied, Draining):
            return
        except Exception:
            log.exception("an audit failed")
