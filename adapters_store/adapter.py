"""The nouns: table of weights, index set, adapter, and the digests that name them.

Canonical JSON (``canonical_json``) is UTF-8, sorted keys, no spaces, no NaN. A digest is written
``sha256:<64 lower-case hex digits>``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal, NewType

import torch
from torch import Tensor

Digest = NewType("Digest", str)
Version = NewType("Version", str)  # the digest of an adapter's canonical manifest
Fingerprint = NewType("Fingerprint", str)  # the digest of a base checkpoint as stored

DTypeName = Literal["bfloat16", "float16", "float32"]
TORCH_DTYPES: dict[DTypeName, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
DTYPE_NAMES: dict[torch.dtype, DTypeName] = {dtype: name for name, dtype in TORCH_DTYPES.items()}

BLOCK_ELEMENTS = 65_536  # what a 16-bit local index can address; blocks restart at each weight


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightEntry:
    """One row of the table of weights. ``dtype`` is the weight's dtype in the checkpoint as stored."""

    name: str
    shape: tuple[int, ...]
    dtype: DTypeName
    first_block: int
    count: int  # entries of the adapter in this weight

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def num_blocks(self) -> int:
        return num_blocks(self.numel)

    @property
    def end_block(self) -> int:
        return self.first_block + self.num_blocks


WeightTable = tuple[WeightEntry, ...]


def num_blocks(numel: int) -> int:
    return -(-numel // BLOCK_ELEMENTS)


def build_table(rows: Iterable[tuple[str, tuple[int, ...], DTypeName, int]]) -> WeightTable:
    """Table rows from (name, shape, dtype, count) in the given order; ``first_block`` runs on."""
    rows = list(rows)
    ends = accumulate(num_blocks(math.prod(shape)) for _, shape, _, _ in rows)
    firsts = [0, *ends][:-1]
    return tuple(
        WeightEntry(name=name, shape=shape, dtype=dtype, first_block=first, count=count)
        for (name, shape, dtype, count), first in zip(rows, firsts, strict=True)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class IndexSet:
    """The sorted positions an adapter touches, block-local, C order of each weight's logical shape.

    ``offsets`` int64 (num_blocks + 1,): entries of block ``b`` are ``indices[offsets[b]:offsets[b + 1]]``.
    ``indices`` uint16 (num_entries,): strictly ascending inside each block.
    Both on one device, contiguous; read-only by agreement (they may be a mapped file).
    Two index sets with one ``digest`` are the same set.
    """

    digest: Digest
    table: WeightTable
    offsets: Tensor
    indices: Tensor

    @property
    def num_entries(self) -> int:
        return self.indices.numel()

    @property
    def num_blocks(self) -> int:
        return self.offsets.numel() - 1

    @property
    def num_bytes(self) -> int:
        return self.offsets.nbytes + self.indices.nbytes

    @cached_property
    def entry_starts(self) -> tuple[int, ...]:
        """First entry of each weight, and the total at the end: (len(table) + 1,)."""
        return (0, *accumulate(entry.count for entry in self.table))

    def on(self, device: torch.device) -> IndexSet:
        """A copy there."""
        return replace(self, offsets=self.offsets.to(device), indices=self.indices.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """An immutable sparse delta: one index set and the values W − W0 at its positions.

    ``values`` (num_entries,) in ``float32``, ``bfloat16`` or ``float16``, in the index set's order.
    """

    version: Version
    base: Fingerprint
    index_set: IndexSet
    values_digest: Digest
    values: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the values alone; the index set is shared and counted on its own."""
        return self.values.nbytes


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_digest(*parts: bytes | memoryview) -> Digest:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return Digest(f"sha256:{sha.hexdigest()}")


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy (little-endian machines only)."""
    return tensor.detach().flatten().view(torch.uint8).numpy().data


def table_json(table: WeightTable) -> list[dict[str, object]]:
    return [
        {
            "name": entry.name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "first_block": entry.first_block,
            "count": entry.count,
        }
        for entry in table
    ]


def index_set_digest(table: WeightTable, offsets: Tensor, indices: Tensor) -> Digest:
    """SHA-256 over a domain line, the table in canonical JSON, then offsets and indices (little-endian)."""
    return sha256_digest(
        b"shira.index-set.v1\n",
        canonical_json(table_json(table)),
        b"\n",
        tensor_bytes(offsets),
        tensor_bytes(indices),
    )


def values_digest(values: Tensor) -> Digest:
    """SHA-256 over a domain line, the dtype's name, then the values (little-endian)."""
    return sha256_digest(b"shira.values.v1\n", DTYPE_NAMES[values.dtype].encode(), b"\n", tensor_bytes(values))


def manifest_json(*, base: Fingerprint, index_set: IndexSet, values: Digest, values_dtype: DTypeName) -> bytes:
    """The canonical manifest: its SHA-256 is the adapter's version. Names, cards and tags stay outside."""
    return canonical_json(
        {
            "format": "shira.adapter.v1",
            "base": base,
            "weights": table_json(index_set.table),
            "index_set": index_set.digest,
            "values": values,
            "values_dtype": values_dtype,
        }
    )


def build_index_set(table: WeightTable, offsets: Tensor, indices: Tensor) -> IndexSet:
    """Names a set by its content. The caller vouches for its validity (``format`` and ``tools`` check it)."""
    return IndexSet(digest=index_set_digest(table, offsets, indices), table=table, offsets=offsets, indices=indices)


def build_adapter(*, base: Fingerprint, index_set: IndexSet, values: Tensor) -> Adapter:
    """Names an adapter by its content."""
    digest = values_digest(values)
    manifest = manifest_json(base=base, index_set=index_set, values=digest, values_dtype=DTYPE_NAMES[values.dtype])
    return Adapter(
        version=Version(sha256_digest(manifest)), base=base, index_set=index_set, values_digest=digest, values=values
    )
