"""The disk tier: every version this replica can serve by itself.

``index_sets/<hex>.safetensors``, ``values/<hex>.safetensors`` and, written last, ``manifests/<hex>.json``: a version
is here once its manifest is. Files are written once, read-only, mapped when loaded, and never changed in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TypeVar

from torch import Tensor

from adapters_store.adapter import Adapter, Digest, IndexSet, Version
from adapters_store.container import map_file
from adapters_store.durable import make_dir_durably, remove_durably, write_durably
from adapters_store.errors import AdapterRejected, BlobCorrupt, StorageFull
from adapters_store.format import decode_index_set, decode_values, encode_index_set, encode_values
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk_layout import OWN_FILES, DiskLayout
from adapters_store.tiers.manifest import StoredManifest, manifest_of, read_manifest

log = logging.getLogger(__name__)
T = TypeVar("T")
Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A file that was found to hold what its name says, as long as these have not changed."""

    inode: int
    num_bytes: int
    modified_ns: int


class DiskTier:
    """Any thread may call it. Writes and removals exclude each other; reads need a claim on the version (see store)."""

    def __init__(self, data_dir: DataDir) -> None:
        self._tmp = data_dir.tmp
        self._layout = DiskLayout(data_dir.adapters)
        for folder in self._layout.folders:
            make_dir_durably(folder)
        self._lock = RLock()
        self._verified: dict[Path, _Stamp] = {}
        self._by_version: dict[Version, StoredManifest] = {}
        for path in self._layout.manifests.glob("*.json"):
            version = Version(f"sha256:{path.stem}")
            try:
                self._by_version[version] = read_manifest(path.read_bytes(), version, where="disk")
            except BlobCorrupt as error:
                log.error("%s; the version is not listed", error)

    def manifest(self, version: Version) -> StoredManifest | None:
        with self._lock:
            return self._by_version.get(version)

    def manifests(self) -> list[StoredManifest]:
        with self._lock:
            return list(self._by_version.values())

    def write(self, adapter: Adapter) -> StoredManifest:
        """Makes the version durable. What is here already and sound is not written again.

        The adapter was validated by the caller, so what is written counts as verified. Raises StorageFull, having left
        nothing behind."""
        manifest = manifest_of(adapter)
        written: list[Path] = []
        with self._lock:
            try:
                if not self._is_sound(self.load_index_set, manifest.index_set):
                    written.append(self._layout.index_set_of(manifest.index_set))
                    self._write(written[-1], encode_index_set(adapter.index_set))
                if not self._is_sound(self.load_values, manifest.values):
                    written.append(self._layout.values_of(manifest.values))
                    self._write(written[-1], encode_values(adapter.values))
                if manifest.version not in self._by_version:
                    self._write(self._layout.manifest_of(manifest.version), [manifest.text])
                    self._by_version[manifest.version] = manifest
            except StorageFull:
                for path in set(written) - self._used_files():
                    self._remove(path)
                raise
        return manifest

    def load_index_set(self, digest: Digest) -> IndexSet | None:
        """Over the mapped file. The first load in this process checks digest and order, later ones read the header.

        None if it is not here. Raises BlobCorrupt."""
        path = self._layout.index_set_of(digest)
        return self._load(
            path, digest, lambda buffer, verify: decode_index_set(buffer, digest, verify=verify, where="disk")
        )

    def load_values(self, digest: Digest) -> Tensor | None:
        """As ``load_index_set``."""
        path = self._layout.values_of(digest)
        return self._load(
            path, digest, lambda buffer, verify: decode_values(buffer, digest, verify=verify, where="disk")
        )

    def remove(self, version: Version) -> StoredManifest | None:
        """Forgets the version; its blobs go too unless another version here uses them. Maps of them stay valid."""
        with self._lock:
            manifest = self._by_version.pop(version, None)
            if manifest is None:
                return None
            remove_durably(self._layout.manifest_of(version))
            rest = self._by_version.values()
            if all(other.values != manifest.values for other in rest):
                self._remove(self._layout.values_of(manifest.values))
            if all(other.index_set != manifest.index_set for other in rest):
                self._remove(self._layout.index_set_of(manifest.index_set))
            return manifest

    def collect(self, keep: Callable[[], Set[Version]]) -> int:
        """Removes versions that are not in ``keep`` and blobs of no version; returns how many files went.

        ``keep`` is called once no write can begin."""
        with self._lock:
            before = len(self._layout.all_files())
            for version in self._by_version.keys() - keep():
                self.remove(version)
            for path in self._layout.all_files() - self._used_files():
                self._remove(path)
            return before - len(self._layout.all_files())

    def describe(self) -> dict[str, int]:
        """Counts and bytes, from the file system."""
        with self._lock:
            return {
                "num_adapters": len(self._by_version),
                "num_index_sets": len({manifest.index_set for manifest in self._by_version.values()}),
                "num_bytes": sum(path.stat().st_size for path in self._layout.all_files()),
            }

    def _is_sound(self, load: Callable[[Digest], object | None], digest: Digest) -> bool:
        try:
            return load(digest) is not None
        except BlobCorrupt as error:
            log.warning("%s; it is written anew", error)
            return False

    def _load(self, path: Path, digest: Digest, decode: Callable[[memoryview, bool], T]) -> T | None:
        try:
            stamp = _stamp(path)
            buffer = map_file(path, OWN_FILES)
        except FileNotFoundError:
            return None
        except AdapterRejected as error:
            raise BlobCorrupt(digest, where="disk") from error
        if self._verified.get(path) == stamp:
            return decode(memoryview(buffer), False)
        value = decode(memoryview(buffer), True)
        self._verified[path] = stamp
        return value

    def _write(self, path: Path, parts: Parts) -> None:
        write_durably(path, parts, tmp_dir=self._tmp, mode=0o444)
        self._verified[path] = _stamp(path)

    def _remove(self, path: Path) -> None:
        remove_durably(path)
        self._verified.pop(path, None)

    def _used_files(self) -> set[Path]:
        return {path for manifest in self._by_version.values() for path in self._layout.files_of(manifest)}


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return _Stamp(inode=status.st_ino, num_bytes=status.st_size, modified_ns=status.st_mtime_ns)
