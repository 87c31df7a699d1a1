"""Native adapter files of one base, given together: read, and called by short names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import Adapter
from adapters_store.base import BaseDescription
from adapters_store.errors import AdapterRejected, BlendRejected
from adapters_store.format import read_adapter

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAdapter:
    """``name`` is the file's, unique among the files given together."""

    name: str
    adapter: Adapter


def read_files(paths: Sequence[Path], *, base: BaseDescription | None = None) -> list[NamedAdapter]:
    """Every file, fully validated (against ``base``, if given), in the order given.

    Raises AdapterRejected and BaseMismatch naming the file, BlendRejected for one adapter in two files or files of
    different bases, OSError."""
    files = [
        NamedAdapter(name=name, adapter=_read(path, base)) for name, path in zip(short_names(paths), paths, strict=True)
    ]
    seen: dict[str, str] = {}
    for file in files:
        other = seen.setdefault(file.adapter.version, file.name)
        if other != file.name:
            raise BlendRejected(f"{other} and {file.name} hold one adapter, {file.adapter.version}; give it once")
        if file.adapter.base != files[0].adapter.base:
            raise BlendRejected(
                f"{file.name} is made for the base {file.adapter.base}, {files[0].name} for {files[0].adapter.base}; "
                "only adapters of one base go together"
            )
    return files


def short_names(paths: Sequence[Path]) -> list[str]:
    """The files' names without their suffix, with as many of the folders above as it takes to tell them apart.

    Raises BlendRejected for one file given twice."""
    parts = [path.absolute().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for path in paths if parts.count(path.absolute().parts) > 1)
        raise BlendRejected(f"{twice}: the same file is given twice")
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]).removesuffix(SUFFIX) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(path: Path, base: BaseDescription | None) -> Adapter:
    try:
        return read_adapter(path, base=base).adapter
    except AdapterRejected as error:
        where = path.name if error.tensor is None else f"{path.name}: {error.tensor}"
        raise type(error)(error.check, tensor=where, expected=error.expected, got=error.got) from error
