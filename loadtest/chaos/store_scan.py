"""Reads the data directory of a stopped server: every byte that a name refers to is there and sound, and no other."""

from __future__ import annotations

import os
from pathlib import Path

from adapters_store.catalog import Catalog
from adapters_store.errors import BlobCorrupt
from adapters_store.tiers.data_dir import DataDir
from adapters_store.tiers.disk import DiskTier


def scan_store(root: Path) -> list[str]:
    """What is wrong, as sentences. Raises DataDirLocked while a server runs."""
    problems = leftovers(root)
    data_dir = DataDir(root)  # removes leftovers, hence after they were looked for
    try:
        catalog = Catalog(data_dir.catalog, tmp_dir=data_dir.tmp)
        if not catalog.is_complete:
            problems.append("the catalog has a record that cannot be read")
        disk = DiskTier(data_dir)
        referenced = catalog.referenced_versions()
        held = {manifest.version: manifest for manifest in disk.manifests()}
        problems += [f"{version} is referred to, and not on the disk" for version in sorted(referenced - held.keys())]
        problems += [f"{version} is on the disk, and no name's" for version in sorted(held.keys() - referenced)]
        used = set()
        for manifest in held.values():
            used |= {manifest.index_set, manifest.values}
            try:
                if disk.load_index_set(manifest.index_set) is None or disk.load_values(manifest.values) is None:
                    problems.append(f"{manifest.version} lacks a part")
            except BlobCorrupt as error:
                problems.append(str(error))
        for path in (*data_dir.adapters.glob("index_sets/*"), *data_dir.adapters.glob("values/*")):
            if f"sha256:{path.stem}" not in used:
                problems.append(f"{path.relative_to(root)} is of no adapter")
    finally:
        data_dir.close()
    return problems


def leftovers(root: Path) -> list[str]:
    """Temporary files and folders. Of a running server only while nothing is on its way."""
    return [
        f"{Path(folder, name).relative_to(root)} was left behind"
        for place in ("tmp", "scratch")
        for folder, folders, files in os.walk(root / place)  # which bears that they go meanwhile
        for name in (*folders, *files)
    ]
