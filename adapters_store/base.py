"""The base checkpoint as an adapter sees it: its weights by name, and the fingerprint that names it."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import TORCH_DTYPES, Digest, DTypeName, Fingerprint, canonical_json, sha256_digest
from adapters_store.base_files import WeightFile, weight_files
from adapters_store.container import read_header
from adapters_store.container.header import TensorSpan
from adapters_store.container.limits import CHECKPOINT_LIMITS
from adapters_store.durable import write_durably
from adapters_store.errors import AdapterRejected, BaseUnreadable

_DOMAIN = b"shira.base.v1\n"
_SLICE_BYTES = 1 << 24
_CACHE_VERSION = 2
_DTYPE_NAMES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "BOOL": "bool",
    "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWeight:
    """``dtype`` is the one stored: a ``DTypeName`` for what adapters can touch, another name for the rest."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def adaptable_dtype(self) -> DTypeName | None:
        """The stored dtype if an adapter can touch the weight, else None."""
        return next((name for name in TORCH_DTYPES if name == self.dtype), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseDescription:
    """``components`` are those of a pipeline that have weights, whose names begin with ``<component>.``; a base that is
    one model has none."""

    fingerprint: Fingerprint
    weights: Mapping[str, BaseWeight]
    components: tuple[str, ...] = ()

    @property
    def adaptable_components(self) -> tuple[str, ...]:
        """The denoiser first, then the text encoders: what adapters of a pipeline may touch."""
        denoisers = [name for name in ("unet", "transformer") if name in self.components]
        return (*denoisers[:1], *(name for name in self.components if name.startswith("text_encoder")))

    def is_adaptable(self, weight_name: str) -> bool:
        return not self.components or weight_name.partition(".")[0] in self.adaptable_components


def describe_checkpoint(model_dir: Path, *, cache_file: Path | None = None) -> BaseDescription:
    """Hashes every weight of the safetensors checkpoint in ``model_dir``: one model, or a diffusers pipeline, whose
    weights are named ``<component>.<stored name>``.

    With ``cache_file`` the answer is remembered for as long as path, inode, size and modification time of every file
    stay; a cache that cannot be read is made anew. Raises BaseUnreadable, OSError."""
    files = weight_files(model_dir)
    key = [_identity(file) for file in files]
    if cache_file is not None:
        remembered = _recall(cache_file, key)
        if remembered is not None:
            return remembered
    rows: dict[str, tuple[BaseWeight, Digest]] = {}
    for file in files:
        for weight, digest in _hash_file(file):
            if weight.name in rows:
                raise BaseUnreadable(f"{model_dir.name}: the weight {weight.name!r} is in two files")
            rows[weight.name] = (weight, digest)
    description = BaseDescription(
        fingerprint=base_fingerprint(rows.values()),
        weights={name: rows[name][0] for name in sorted(rows)},
        components=tuple(sorted({file.prefix.removesuffix(".") for file in files} - {""})),
    )
    if cache_file is not None:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(cache_file, [_cache_text(key, description)], tmp_dir=cache_file.parent)
    return description


def base_fingerprint(rows: Iterable[tuple[BaseWeight, Digest]]) -> Fingerprint:
    """SHA-256 over a domain line, then the canonical JSON of ``[[name, shape, dtype, digest of the bytes], ...]``
    in ascending order of name. How the checkpoint is split into files does not matter."""
    ordered = sorted(rows, key=lambda row: row[0].name)
    listed = [[weight.name, list(weight.shape), weight.dtype, digest] for weight, digest in ordered]
    return Fingerprint(sha256_digest(_DOMAIN, canonical_json(listed)))


def _identity(file: WeightFile) -> list[object]:
    status = file.path.stat()
    return [file.prefix, str(file.path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns]


def _hash_file(weight_file: WeightFile) -> Iterator[tuple[BaseWeight, Digest]]:
    with weight_file.path.open("rb") as file:
        try:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            header = read_header(view, CHECKPOINT_LIMITS)
        except (AdapterRejected, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise BaseUnreadable(f"{weight_file.path}: not a safetensors file: {error}") from error
    for span in sorted(header.tensors.values(), key=lambda span: span.start):
        yield _describe(span, weight_file.prefix), _hash_span(view, span)


def _describe(span: TensorSpan, prefix: str) -> BaseWeight:
    dtype = _DTYPE_NAMES.get(span.dtype, span.dtype.lower())
    return BaseWeight(name=prefix + span.name, shape=span.shape, dtype=dtype)


def _hash_span(view: memoryview, span: TensorSpan) -> Digest:
    sha = hashlib.sha256()
    for start in range(span.start, span.end, _SLICE_BYTES):
        sha.update(view[start : min(start + _SLICE_BYTES, span.end)])
    return Digest(f"sha256:{sha.hexdigest()}")


def _cache_text(key: list[list[object]], description: BaseDescription) -> bytes:
    weights = [[weight.name, list(weight.shape), weight.dtype] for weight in description.weights.values()]
    return canonical_json(
        {
            "version": _CACHE_VERSION,
            "files": key,
            "fingerprint": description.fingerprint,
            "weights": weights,
            "components": list(description.components),
        }
    )


def _recall(cache_file: Path, key: list[list[object]]) -> BaseDescription | None:
    try:
        cached = json.loads(cache_file.read_bytes())
        if cached["version"] != _CACHE_VERSION or cached["files"] != key:
            return None
        weights = [
            BaseWeight(name=str(name), shape=tuple(map(int, shape)), dtype=str(dtype))
            for name, shape, dtype in cached["weights"]
        ]
        fingerprint = Fingerprint(str(cached["fingerprint"]))
        components = tuple(map(str, cached["components"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return BaseDescription(
        fingerprint=fingerprint, weights={weight.name: weight for weight in weights}, components=components
    )
