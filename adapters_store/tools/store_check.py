"""Is everything that the names of a data directory promise on its disk, byte for byte? Reads only, takes no lock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import Version
from adapters_store.alias import AliasRecord, decode_record
from adapters_store.container import map_file
from adapters_store.errors import AdapterRejected, BlobCorrupt
from adapters_store.format import decode_index_set, decode_values
from adapters_store.tiers.disk_layout import OWN_FILES, DiskLayout
from adapters_store.tiers.manifest import StoredManifest, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCheck:
    """``num_bytes`` were read and are sound. Problems are sentences; ``unnamed`` are files that no name here needs:
    none are told where a record or a manifest cannot be read, which says what is needed."""

    num_aliases: int
    num_versions: int
    num_bytes: int
    problems: tuple[str, ...]
    unnamed: tuple[Path, ...]

    @property
    def is_sound(self) -> bool:
        return not self.problems


def check_store(root: Path) -> StoreCheck:
    """Of a directory that a server uses as well as of a backup: a record that changed meanwhile is read again.

    With a shared Redis a version may still be on its way from another replica: it is told as a problem."""
    layout = DiskLayout(root / "adapters")
    check = _Check(layout)
    num_aliases = sum(check.record(path) for path in record_files(root))
    return StoreCheck(
        num_aliases=num_aliases,
        num_versions=len(check.sound),
        num_bytes=sum(check.sizes.values()),
        problems=tuple(check.problems),
        unnamed=tuple(sorted(layout.all_files() - check.named)) if check.is_complete else (),
    )


def record_files(root: Path) -> list[Path]:
    return sorted((root / "catalog").glob("*/*.json"))


def stored_manifest(layout: DiskLayout, version: Version) -> StoredManifest:
    """Raises FileNotFoundError, BlobCorrupt."""
    return read_manifest(layout.manifest_of(version).read_bytes(), version, where="disk")


def check_version(layout: DiskLayout, manifest: StoredManifest) -> None:
    """Reads its files whole. Raises FileNotFoundError, BlobCorrupt, AdapterRejected."""
    index_set, values, _ = layout.files_of(manifest)
    manifest.assemble(
        decode_index_set(map_file(index_set, OWN_FILES), manifest.index_set, where="disk"),
        decode_values(map_file(values, OWN_FILES), manifest.values, where="disk"),
    )


class _Check:
    def __init__(self, layout: DiskLayout) -> None:
        self._layout = layout
        self.sound: set[Version] = set()
        self.sizes: dict[Path, int] = {}
        self.named: set[Path] = set()
        self.problems: list[str] = []
        self.is_complete = True  # False: some record or manifest could not be read

    def record(self, path: Path) -> bool:
        """True if it is the record of a name that lives."""
        while True:
            data = path.read_bytes()
            try:
                record = decode_record(data)
            except ValueError as error:
                self.problems.append(f"{path.parent.name}/{path.name}: {error}")
                self.is_complete = False
                return False
            found = [problem for version in record.versions for problem in self._version(record, version)]
            if not found or path.read_bytes() == data:
                self.problems += found
                self.is_complete &= all(self._layout.manifest_of(version) in self.named for version in record.versions)
                return not record.deleted

    def _version(self, record: AliasRecord, version: Version) -> Iterator[str]:
        if version in self.sound:
            return
        try:
            manifest = stored_manifest(self._layout, version)
            files = self._layout.files_of(manifest)
            self.named.update(files)
            check_version(self._layout, manifest)
            self.sizes |= {path: path.stat().st_size for path in files}
        except (FileNotFoundError, BlobCorrupt, AdapterRejected) as error:
            problem = "a file is missing" if isinstance(error, FileNotFoundError) else str(error)
            yield f"{record.tenant}/{record.name}, version {version}: {problem}"
        else:
            self.sound.add(version)
