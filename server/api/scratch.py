"""Directories for files on their way in or out. They lie in the data directory, never in a small ``/tmp``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

from adapters_store.errors import StorageFull
from server.api.services import Services
from server.core.errors import OutOfMemory


@asynccontextmanager
async def scratch_directory(services: Services) -> AsyncGenerator[Path, None]:
    """A directory that is gone afterwards, with all that is in it. Raises StorageFull."""
    directory = await services.workers.quick(_make, services.config.data_dir)
    try:
        yield directory
    finally:
        with anyio.CancelScope(shield=True):
            await _remove(services, directory)


def clear_scratch(data_dir: Path) -> None:
    """Removes what a killed process left. Nothing may be on its way."""
    shutil.rmtree(_root(data_dir), ignore_errors=True)


def _make(data_dir: Path) -> Path:
    root = _root(data_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=root))
    except OSError as error:
        raise StorageFull(f"the disk refused a directory for the transfer: {error.strerror}") from error


async def _remove(services: Services, directory: Path) -> None:
    try:
        await services.workers.quick(shutil.rmtree, directory, ignore_errors=True)
    except OutOfMemory:  # not even for a thread
        with suppress(MemoryError):
            shutil.rmtree(directory, ignore_errors=True)


def _root(data_dir: Path) -> Path:
    return data_dir / "scratch"
