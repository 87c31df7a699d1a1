"""Where the benchmark's adapters are: in host memory, or in files that are checked each time they are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from adapters_store.adapter import Adapter, Version
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier


class HostOrFile:
    """Satisfies ``execution.staging.AdapterSource``."""

    def __init__(self, adapters: Sequence[Adapter], folder: Path) -> None:
        self.is_on_host = True
        self._on_host = {adapter.version: adapter for adapter in adapters}
        self._folder = folder
        with closing(DataDir(folder)) as data_dir:
            disk = DiskTier(data_dir)
            for adapter in adapters:
                disk.write(adapter)

    def acquire(self, version: Version) -> Adapter:
        return self._on_host[version] if self.is_on_host else self._read(version)

    def release(self, adapter: Adapter) -> None:
        pass

    def _read(self, version: Version) -> Adapter:
        """By a tier that has verified nothing yet: digests, order and range are checked."""
        with closing(DataDir(self._folder)) as data_dir:
            disk = DiskTier(data_dir)
            manifest = disk.manifest(version)
            assert manifest is not None  # noqa: S101  (written above)
            index_set, values = disk.load_index_set(manifest.index_set), disk.load_values(manifest.values)
            assert index_set is not None  # noqa: S101
            assert values is not None  # noqa: S101
            return manifest.assemble(index_set, values)
