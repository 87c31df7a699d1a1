"""Names: every alias record of this replica, in memory and one file each on disk."""

from __future__ import annotations

import logging
from bisect import bisect_right
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from adapters_store.adapter import Version
from adapters_store.alias import AliasKey, AliasRecord, decode_record, encode_record
from adapters_store.durable import write_durably
from adapters_store.errors import AdapterNotFound

log = logging.getLogger(__name__)


class Replaced(NamedTuple):
    """What a record stands in the place of now; ``record`` is None where there was nothing."""

    record: AliasRecord | None


class Catalog:
    """Any thread may call it. A method that changes a record returns once the change is durable."""

    def __init__(self, root: Path, *, tmp_dir: Path) -> None:
        """Reads what is there. A file that is not a record is reported and left alone (see ``is_complete``)."""
        self._lock = Lock()
        self._root = root
        self._tmp_dir = tmp_dir
        self._records: dict[AliasKey, AliasRecord] = {}
        self.is_complete = True  # False: some record could not be read, so nothing may be taken for unreferenced
        for path in sorted(root.glob("*/*.json")):
            try:
                record = decode_record(path.read_bytes())
                if self._path(record.key) != path:
                    raise ValueError(f"it is the record of {record.tenant}/{record.name}")
            except ValueError as error:
                log.error("catalog: %s is unreadable and ignored: %s", path.name, error)
                self.is_complete = False
            else:
                self._records[record.key] = record

    def find(self, key: AliasKey) -> AliasRecord | None:
        """The record, tombstones included."""
        with self._lock:
            return self._records.get(key)

    def get(self, key: AliasKey) -> AliasRecord:
        """The live record. Raises AdapterNotFound."""
        record = self.find(key)
        if record is None or record.deleted:
            raise AdapterNotFound(key.name)
        return record

    def page(self, tenant: str, *, after: str | None, limit: int) -> list[AliasRecord]:
        """Up to ``limit`` live records of a tenant, by name, those behind ``after``."""
        with self._lock:
            live = {
                key.name: record for key, record in self._records.items() if key.tenant == tenant and not record.deleted
            }
        names = sorted(live)
        start = 0 if after is None else bisect_right(names, after)
        return [live[name] for name in names[start : start + limit]]

    def all(self) -> list[AliasRecord]:
        """Every record, tombstones included."""
        with self._lock:
            return list(self._records.values())

    def referenced_versions(self) -> set[Version]:
        return {version for record in self.all() for version in record.versions}

    def pinned_versions(self) -> set[Version]:
        return {record.version for record in self.all() if record.pinned}

    def adopt(self, record: AliasRecord) -> Replaced | None:
        """Takes the record if it is higher than the one held, None if it was not. Raises StorageFull."""
        with self._lock:
            held = self._records.get(record.key)
            if held is not None and held.order >= record.order:
                return None
            write_durably(self._path(record.key), [encode_record(record)], tmp_dir=self._tmp_dir)
            self._records[record.key] = record
            return Replaced(held)

    def _path(self, key: AliasKey) -> Path:
        return self._root / key.tenant / f"{key.name}.json"
