"""The native single file: three flat tensors and a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from adapters_store.adapter import (
    DTYPE_NAMES,
    TORCH_DTYPES,
    Adapter,
    Digest,
    IndexSet,
    Version,
    WeightTable,
    canonical_json,
    index_set_digest,
    manifest_json,
    sha256_digest,
    values_digest,
)
from adapters_store.base import BaseDescription
from adapters_store.base_names import check_adaptable, expected_names
from adapters_store.container import (
    DEFAULT_LIMITS,
    Limits,
    TensorPart,
    container_parts,
    map_file,
    parse_json,
    read_header,
)
from adapters_store.container.header import DTYPE_CODES, Buffer, Header
from adapters_store.durable import write_durably
from adapters_store.errors import AdapterRejected, BaseMismatch
from adapters_store.format.manifest import parse_manifest
from adapters_store.format.scan import check_indices, check_values
from adapters_store.format.tensors import read_tensors

MANIFEST_KEY = "shira"
CARD_KEY = "card"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedUpload:
    """A validated adapter over the memory of the file it came from. ``base_verified`` says whether the file itself
    names the base it was checked against, by fingerprint."""

    adapter: Adapter
    card: dict[str, object] | None
    base_verified: bool


def read_adapter(path: Path, *, base: BaseDescription | None, limits: Limits = DEFAULT_LIMITS) -> ParsedUpload:
    """Maps and fully validates a native file; with ``base``, against it too.

    Raises AdapterRejected, LimitExceeded, BaseMismatch, OSError."""
    buffer = map_file(path, limits)
    return parse_native(buffer, read_header(buffer, limits), base=base, limits=limits)


def parse_native(buffer: Buffer, header: Header, *, base: BaseDescription | None, limits: Limits) -> ParsedUpload:
    """``read_adapter`` for a file whose header has been read."""
    if MANIFEST_KEY not in header.metadata:
        raise AdapterRejected("metadata", tensor="__metadata__", expected=f"the key {MANIFEST_KEY!r}", got="none")
    text = header.metadata[MANIFEST_KEY].encode()
    manifest = parse_manifest(text, limits)
    card = parse_card(header.metadata.get(CARD_KEY), limits)
    table = manifest.table
    num_entries = sum(entry.count for entry in table)
    offsets, indices, values = read_tensors(
        buffer,
        header,
        {"offsets": ("I64",), "indices": ("U16",), "values": (DTYPE_CODES[TORCH_DTYPES[manifest.values_dtype]],)},
        {"offsets": table[-1].end_block + 1, "indices": num_entries, "values": num_entries},
    )
    if base is not None:
        if manifest.base != base.fingerprint:
            raise BaseMismatch(
                "base",
                tensor="manifest.base",
                expected=f"{base.fingerprint} ({expected_names(base)})",
                got=f"{manifest.base} (an adapter of {table[0].name})",
            )
        check_against_base(table, base)
    check_indices(table, offsets, indices)
    check_values(values)
    _check_digest("index_set", index_set_digest(table, offsets, indices), manifest.index_set)
    _check_digest("values", values_digest(values), manifest.values)
    adapter = Adapter(
        version=Version(sha256_digest(text)),
        base=manifest.base,
        index_set=IndexSet(digest=manifest.index_set, table=table, offsets=offsets, indices=indices),
        values_digest=manifest.values,
        values=values,
    )
    if _manifest_text(adapter) != text:  # duplicate keys and other spellings of one manifest would be other versions
        raise AdapterRejected("canonical", tensor="manifest", expected="canonical JSON", got="another spelling of it")
    return ParsedUpload(adapter=adapter, card=card, base_verified=base is not None)


def write_adapter(adapter: Adapter, path: Path, *, card: Mapping[str, object] | None = None) -> None:
    """Writes the native file whole or not at all; the same adapter and card give the same bytes.

    Raises StorageFull, OSError."""
    metadata = {MANIFEST_KEY: _manifest_text(adapter).decode()}
    if card is not None:
        metadata[CARD_KEY] = canonical_json(dict(card)).decode()
    index_set = adapter.index_set
    tensors = [
        TensorPart("offsets", index_set.offsets),
        TensorPart("values", adapter.values),
        TensorPart("indices", index_set.indices),
    ]
    write_durably(path, container_parts(tensors, metadata), tmp_dir=path.parent)


def check_against_base(table: WeightTable, base: BaseDescription) -> None:
    """Every row names a weight of the base, with its shape and stored dtype. Raises BaseMismatch."""
    for entry in table:
        weight = base.weights.get(entry.name)
        if weight is None:
            raise BaseMismatch("weight", tensor=entry.name, expected=expected_names(base), got="an unknown name")
        check_adaptable(entry.name, base)
        if entry.shape != weight.shape:
            raise BaseMismatch("shape", tensor=entry.name, expected=str(list(weight.shape)), got=str(list(entry.shape)))
        if entry.dtype != weight.dtype:
            raise BaseMismatch("dtype", tensor=entry.name, expected=weight.dtype, got=entry.dtype)


def parse_card(text: str | None, limits: Limits) -> dict[str, object] | None:
    """Raises AdapterRejected, LimitExceeded."""
    if text is None:
        return None
    limits.check("card_bytes", len(text.encode()), tensor="card")
    card = parse_json(text.encode(), what="card", max_depth=limits.json_depth)
    if not isinstance(card, dict):
        raise AdapterRejected("card", tensor="card", expected="a JSON object", got=type(card).__name__)
    return cast("dict[str, object]", card)


def _check_digest(field: str, computed: Digest, stated: Digest) -> None:
    if computed != stated:
        raise AdapterRejected("digest", tensor=f"manifest.{field}", expected=stated, got=computed)


def _manifest_text(adapter: Adapter) -> bytes:
    return manifest_json(
        base=adapter.base,
        index_set=adapter.index_set,
        values=adapter.values_digest,
        values_dtype=DTYPE_NAMES[adapter.values.dtype],
    )
