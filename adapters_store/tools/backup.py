"""A copy of a data directory that some server may be using, such that every name in it has its bytes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import Version
from adapters_store.alias import decode_record
from adapters_store.durable import make_dir_durably, remove_durably, write_durably
from adapters_store.errors import AdapterRejected, BlobCorrupt
from adapters_store.tiers.data_dir import REPLICA_FILE
from adapters_store.tiers.disk_layout import DiskLayout
from adapters_store.tools.store_check import StoreCheck, check_store, check_version, record_files, stored_manifest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """``num_copied`` files of adapters were not in the copy before, or were damaged there. ``problems``: names that are
    in the copy as they were before, or not at all, and why."""

    num_copied: int
    problems: tuple[str, ...]
    check: StoreCheck


def back_up(source: Path, copy: Path) -> Backup:
    """Brings ``copy`` up to what ``source`` holds, then reads it whole. It is a data directory itself: a server
    that is started on it has the adapters, under an identity of its own.

    Raises ValueError, having written nothing, where ``source`` is no data directory or ``copy`` is no copy of it;
    StorageFull."""
    _check_directories(source, copy)
    tmp = copy / "tmp"
    make_dir_durably(tmp)
    make_dir_durably(copy / "catalog")
    blobs = _Blobs(DiskLayout(source / "adapters"), DiskLayout(copy / "adapters"), tmp)
    problems = []
    for path in record_files(source):
        name = path.relative_to(source)
        try:
            write_durably(copy / name, [_with_its_bytes(path, blobs)], tmp_dir=tmp)
        except (ValueError, FileNotFoundError, BlobCorrupt, AdapterRejected) as error:
            problems.append(f"{path.parent.name}/{path.stem} was not copied: {error}")
    for unnamed in check_store(copy).unnamed:
        remove_durably(unnamed)
    return Backup(num_copied=blobs.num_copied, problems=tuple(problems), check=check_store(copy))


def _check_directories(source: Path, copy: Path) -> None:
    if not (source / "catalog").is_dir():
        raise ValueError(f"{source} is no data directory: it has no catalog")
    if (copy / REPLICA_FILE).exists() or copy.resolve() == source.resolve():
        raise ValueError(f"{copy} is the data directory of a server, not a copy")
    if not copy.exists() or not any(copy.iterdir()):
        return
    if not (copy / "catalog").is_dir():
        raise ValueError(f"{copy} is neither empty nor a copy of a data directory")
    known = {path.relative_to(source) for path in record_files(source)}
    for path in record_files(copy):
        if path.relative_to(copy) not in known:  # a deleted name leaves a record
            raise ValueError(f"{copy} is a copy of another directory: {source} has never had {path.stem}")


def _with_its_bytes(path: Path, blobs: _Blobs) -> bytes:
    """The record, once all of its versions are in the copy. A version that went while it was copied went from the
    record before: it is read again."""
    while True:
        data = path.read_bytes()
        try:
            for version in decode_record(data).versions:
                blobs.bring(version)
        except FileNotFoundError:
            if path.read_bytes() == data:
                raise
        else:
            return data


class _Blobs:
    def __init__(self, source: DiskLayout, copy: DiskLayout, tmp: Path) -> None:
        self._source = source
        self._copy = copy
        self._tmp = tmp
        self._sound: set[Version] = set()
        self.num_copied = 0

    def bring(self, version: Version) -> None:
        """Until the copy has it whole. Raises FileNotFoundError, BlobCorrupt, AdapterRejected, StorageFull."""
        if version in self._sound:
            return
        with suppress(FileNotFoundError, BlobCorrupt, AdapterRejected):
            check_version(self._copy, stored_manifest(self._copy, version))
            self._sound.add(version)
            return
        manifest = stored_manifest(self._source, version)
        for path, target in zip(self._source.files_of(manifest), self._copy.files_of(manifest), strict=True):
            if not _is_same(path, target):
                write_durably(target, _chunks(path), tmp_dir=self._tmp, mode=0o444)
                self.num_copied += 1
        check_version(self._copy, manifest)
        self._sound.add(version)


def _is_same(path: Path, target: Path) -> bool:
    if not target.exists() or target.stat().st_size != path.stat().st_size:
        return False
    return all(own == other for own, other in zip(_chunks(path), _chunks(target), strict=True))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK_BYTES), b"")
