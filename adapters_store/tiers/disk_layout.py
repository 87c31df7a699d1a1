"""Where the disk tier keeps what: one file per index set, tensor of values and manifest, named by its digest."""

from __future__ import annotations

from pathlib import Path

from adapters_store.adapter import Digest, Version
from adapters_store.container import Limits
from adapters_store.tiers.manifest import StoredManifest

OWN_FILES = Limits(file_bytes=1 << 62)  # what was checked when it came


class DiskLayout:
    def __init__(self, adapters: Path) -> None:
        self.index_sets = adapters / "index_sets"
        self.values = adapters / "values"
        self.manifests = adapters / "manifests"
        self.folders = (self.index_sets, self.values, self.manifests)

    def index_set_of(self, digest: Digest) -> Path:
        return _named(self.index_sets, digest, ".safetensors")

    def values_of(self, digest: Digest) -> Path:
        return _named(self.values, digest, ".safetensors")

    def manifest_of(self, version: Version) -> Path:
        return _named(self.manifests, version, ".json")

    def files_of(self, manifest: StoredManifest) -> tuple[Path, Path, Path]:
        """In the order in which they are written: the manifest last."""
        return (
            self.index_set_of(manifest.index_set),
            self.values_of(manifest.values),
            self.manifest_of(manifest.version),
        )

    def all_files(self) -> set[Path]:
        return {path for folder in self.folders if folder.is_dir() for path in folder.iterdir()}


def _named(folder: Path, digest: str, suffix: str) -> Path:
    return folder / (digest.removeprefix("sha256:") + suffix)
