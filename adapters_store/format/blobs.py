"""The two blobs that the disk and Redis carry, each a small safetensors file stored under its digest: an *index set*
(``offsets``, ``indices``, the table of weights as metadata) and *values*.

Encoding gives the file as buffers to be written one after the other, without a copy of the tensors. Decoding copies
nothing when the buffer is writable and aligned (``map_file`` gives such a buffer). ``verify=False`` is for bytes that
were verified before and have not changed since: it reads the header alone. With ``verify`` the digest is recomputed
and the entries are scanned. Whatever is wrong, it is BlobCorrupt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from adapters_store.adapter import Digest, IndexSet, canonical_json, index_set_digest, table_json, values_digest
from adapters_store.container import DEFAULT_LIMITS, Limits, TensorPart, container_parts, read_header
from adapters_store.container.header import Buffer
from adapters_store.errors import AdapterRejected, BlobCorrupt
from adapters_store.format.manifest import parse_table
from adapters_store.format.scan import check_indices, check_values
from adapters_store.format.tensors import VALUE_DTYPES, read_tensors

TABLE_KEY = "weights"


def encode_index_set(index_set: IndexSet) -> list[bytes | memoryview]:
    return container_parts(
        [TensorPart("offsets", index_set.offsets), TensorPart("indices", index_set.indices)],
        {TABLE_KEY: canonical_json(table_json(index_set.table)).decode()},
    )


def encode_values(values: Tensor) -> list[bytes | memoryview]:
    return container_parts([TensorPart("values", values)], {})


def decode_index_set(
    buffer: Buffer, digest: Digest, *, verify: bool = True, where: str = "index set", limits: Limits = DEFAULT_LIMITS
) -> IndexSet:
    with _corrupt(digest, where):
        header = read_header(buffer, limits)
        table = parse_table(header.metadata.get(TABLE_KEY, "").encode(), limits)
        offsets, indices = read_tensors(
            buffer,
            header,
            {"offsets": ("I64",), "indices": ("U16",)},
            {"offsets": table[-1].end_block + 1, "indices": sum(entry.count for entry in table)},
        )
        if verify:
            if index_set_digest(table, offsets, indices) != digest:
                raise BlobCorrupt(digest, where=where)
            check_indices(table, offsets, indices)
    return IndexSet(digest=digest, table=table, offsets=offsets, indices=indices)


def decode_values(
    buffer: Buffer, digest: Digest, *, verify: bool = True, where: str = "values", limits: Limits = DEFAULT_LIMITS
) -> Tensor:
    with _corrupt(digest, where):
        header = read_header(buffer, limits)
        (values,) = read_tensors(buffer, header, {"values": VALUE_DTYPES}, {})
        if verify:
            if values_digest(values) != digest:
                raise BlobCorrupt(digest, where=where)
            check_values(values)
    return values


@contextmanager
def _corrupt(digest: Digest, where: str) -> Iterator[None]:
    try:
        yield
    except AdapterRejected as error:
        raise BlobCorrupt(digest, where=where) from error
