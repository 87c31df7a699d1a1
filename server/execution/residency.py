"""Brings a blend's bytes to the host on the loader pool. Satisfies ``engine.ports.Residency``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from time import monotonic
from typing import Protocol

from adapters_store.adapter import Adapter, Version
from adapters_store.blend import Blend, BlendKey
from adapters_store.errors import AdapterStoreError, AdapterUnavailable, BudgetExceeded
from server.core.fetches import Fetches
from server.core.steps import LoadReport
from server.core.tracing import Phase
from server.execution.staging import AdapterSource

log = logging.getLogger(__name__)


class BlendSource(AdapterSource, Protocol):
    def check_fits(self, versions: Sequence[Version]) -> None:
        """Raises NeverFits if they could not all be held at once, even if nothing else was."""
        ...


class StoreResidency:
    """Holds the adapters of every blend between ``request`` and ``release``. Both on the engine thread."""

    def __init__(self, source: BlendSource, pool: Executor, fetches: Fetches | None = None) -> None:
        """``fetches``: where the source's observer notes them."""
        self._source = source
        self._pool = pool
        self._fetches = fetches or Fetches()
        self._loads: dict[BlendKey, Future[list[Adapter]]] = {}

    def request(self, blend: Blend, on_done: Callable[[LoadReport], None]) -> None:
        """Loads on the pool; ``on_done`` is called there, once. One ``request`` per blend until its ``release``."""
        self._loads[blend.key] = self._pool.submit(self._load, blend, on_done, monotonic())

    def release(self, blend: Blend) -> None:
        """The bytes are let go now, or as soon as the load under way ends."""
        self._loads.pop(blend.key).add_done_callback(self._let_go)

    def _load(self, blend: Blend, on_done: Callable[[LoadReport], None], requested_s: float) -> list[Adapter]:
        """The adapters, held; an empty list if one of them cannot be had."""
        held: list[Adapter] = []
        self._fetches.take()  # of somebody else
        try:
            self._acquire_all(blend, held)
        except Exception as error:
            for adapter in held:
                self._source.release(adapter)
            told = error if isinstance(error, AdapterStoreError) else _unavailable(blend, error)
            on_done(LoadReport(error=told, took=self._took(blend, requested_s)))
            return []
        on_done(LoadReport(took=self._took(blend, requested_s)))
        return held

    def _acquire_all(self, blend: Blend, held: list[Adapter]) -> None:
        """Raises NeverFits rather than BudgetExceeded where others letting go would not help."""
        try:
            for version in blend.versions:
                held.append(self._source.acquire(version))
        except BudgetExceeded:
            self._source.check_fits(blend.versions)
            raise

    def _took(self, blend: Blend, requested_s: float) -> Phase:
        """From the request on: a load may have waited for a thread."""
        return Phase(
            name="load",
            started_s=requested_s,
            ended_s=monotonic(),
            attributes={"shira.blend.key": blend.key, "shira.adapter.versions": blend.versions},
            parts=self._fetches.take(),
        )

    def _let_go(self, load: Future[list[Adapter]]) -> None:
        if not load.cancelled():
            for adapter in load.result():
                self._source.release(adapter)


def _unavailable(blend: Blend, error: Exception) -> AdapterUnavailable:
    log.error("loading blend %s failed", blend.key, exc_info=error)
    return AdapterUnavailable(" + ".join(blend.versions), reason=str(error) or type(error).__name__)
