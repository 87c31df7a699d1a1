"""A copy of a data directory that some server may be using, such that every name in it has its bytes beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import Version
from adapters_store.alias import decode_record
from adapters_store.durable import make_dir_durably, remove_durably, write_durably
from adapters_store.errors import AdapterUnavailable
from adapters_store.tiers.disk_layout import DiskLayout
from adapters_store.tools.store_check import StoreCheck, check_store, record_files, stored_manifest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """``num_copied`` files of adapters were not in the copy before."""

    num_copied: int
    check: StoreCheck


def back_up(source: Path, copy: Path) -> Backup:
    """Brings ``copy`` up to what ``source`` holds, then reads it whole. It is a data directory itself: a server
    that is started on it has the adapters, under an identity of its own.

    Files of adapters never change, so those that the copy holds are not written again. Raises ValueError where a name
    is no record or ``copy`` is no copy, AdapterUnavailable where a name's bytes are not in ``source``, StorageFull."""
    if copy.exists() and any(copy.iterdir()) and not (copy / "catalog").is_dir():
        raise ValueError(f"{copy} is neither empty nor a copy of a data directory")
    tmp = copy / "tmp"
    make_dir_durably(tmp)
    make_dir_durably(copy / "catalog")
    blobs = _Blobs(DiskLayout(source / "adapters"), DiskLayout(copy / "adapters"), tmp)
    names = set()
    for path in record_files(source):
        name = path.relative_to(source)
        write_durably(copy / name, [_with_its_bytes(path, blobs)], tmp_dir=tmp)
        names.add(name)
    for path in record_files(copy):
        if path.relative_to(copy) not in names:
            remove_durably(path)
    for unnamed in check_store(copy).unnamed:
        remove_durably(copy / unnamed)
    return Backup(num_copied=blobs.num_copied, check=check_store(copy))


def _with_its_bytes(path: Path, blobs: _Blobs) -> bytes:
    """The record, once all of its versions are in the copy. A version that went while it was copied went from the
    record before: it is read again."""
    while True:
        data = path.read_bytes()
        missing = [version for version in decode_record(data).versions if not blobs.bring(version)]
        if not missing:
            return data
        if path.read_bytes() == data:
            raise AdapterUnavailable(missing[0], reason=f"{path.parent.name}/{path.stem} names it, the disk lacks it")


class _Blobs:
    def __init__(self, source: DiskLayout, copy: DiskLayout, tmp: Path) -> None:
        self._source = source
        self._copy = copy
        self._tmp = tmp
        self.num_copied = 0

    def bring(self, version: Version) -> bool:
        """False if the source does not hold all of it."""
        try:
            manifest = stored_manifest(self._source, version)
            for path, target in zip(self._source.files_of(manifest), self._copy.files_of(manifest), strict=True):
                if not target.exists() or target.stat().st_size != path.stat().st_size:
                    self._write(path, target)
        except FileNotFoundError:
            return False
        return True

    def _write(self, path: Path, target: Path) -> None:
        with path.open("rb") as file:
            parts = iter(lambda: file.read(CHUNK_BYTES), b"")
            write_durably(target, parts, tmp_dir=self._tmp, mode=0o444)
        self.num_copied += 1
