"""What a version is made of, as the tiers keep it: the canonical manifest, whose digest is the version."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from adapters_store.adapter import (
    DTYPE_NAMES,
    Adapter,
    Digest,
    DTypeName,
    Fingerprint,
    IndexSet,
    Version,
    manifest_json,
    sha256_digest,
)
from adapters_store.container import Limits
from adapters_store.errors import AdapterRejected, BlobCorrupt
from adapters_store.format.manifest import parse_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """``text`` is the canonical JSON."""

    version: Version
    base: Fingerprint
    index_set: Digest
    values: Digest
    values_dtype: DTypeName
    text: bytes

    def assemble(self, index_set: IndexSet, values: Tensor) -> Adapter:
        """The adapter of its two blobs. Raises BlobCorrupt when they do not belong together."""
        if values.shape != (index_set.num_entries,) or DTYPE_NAMES.get(values.dtype) != self.values_dtype:
            raise BlobCorrupt(self.version, where="values against index set")
        return Adapter(
            version=self.version, base=self.base, index_set=index_set, values_digest=self.values, values=values
        )


def manifest_of(adapter: Adapter) -> StoredManifest:
    dtype = DTYPE_NAMES[adapter.values.dtype]
    return StoredManifest(
        version=adapter.version,
        base=adapter.base,
        index_set=adapter.index_set.digest,
        values=adapter.values_digest,
        values_dtype=dtype,
        text=manifest_json(
            base=adapter.base, index_set=adapter.index_set, values=adapter.values_digest, values_dtype=dtype
        ),
    )


def read_manifest(text: bytes, version: Version, *, where: str) -> StoredManifest:
    """Raises BlobCorrupt unless ``text`` is the manifest that ``version`` names."""
    if Version(sha256_digest(text)) != version:
        raise BlobCorrupt(version, where=where)
    try:
        manifest = parse_manifest(text, Limits())
    except AdapterRejected as error:
        raise BlobCorrupt(version, where=where) from error
    return StoredManifest(
        version=version,
        base=manifest.base,
        index_set=manifest.index_set,
        values=manifest.values,
        values_dtype=manifest.values_dtype,
        text=text,
    )
