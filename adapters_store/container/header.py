"""Reads the header of a safetensors file. Every length is checked before it is believed.

``u64 n`` little-endian, then ``n`` bytes of JSON object, then the data; every byte of the data belongs to exactly
one tensor (no holes, no overlaps, nothing after the last).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor

from adapters_store.container.limits import Limits
from adapters_store.container.strict_json import parse_json
from adapters_store.errors import AdapterRejected

LENGTH_BYTES = 8
# fmt: off
DTYPE_BITS: Mapping[str, int] = MappingProxyType({
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
})
TORCH_DTYPE_OF: Mapping[str, torch.dtype] = MappingProxyType({
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U16": torch.uint16,
})
# fmt: on
DTYPE_CODES: Mapping[torch.dtype, str] = MappingProxyType({dtype: code for code, dtype in TORCH_DTYPE_OF.items()})

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpan:
    """Where one tensor lies. ``start`` and ``end`` count bytes from the start of the file."""

    name: str
    dtype: str  # a key of DTYPE_BITS
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    tensors: Mapping[str, TensorSpan]
    metadata: Mapping[str, str]


def read_header(buffer: Buffer, limits: Limits) -> Header:
    """Parses and checks the header over the whole file in ``buffer``; no tensor byte is touched.

    Raises AdapterRejected or LimitExceeded naming the tensor and the check."""
    view = memoryview(buffer)
    limits.check("file_bytes", len(view))
    data_start = _data_start(view, limits)
    members = parse_json(view[LENGTH_BYTES:data_start], what="header", max_depth=3)
    if not isinstance(members, dict):
        raise AdapterRejected("header", tensor=None, expected="a JSON object", got=type(members).__name__)
    metadata = _metadata(members.pop("__metadata__", {}))
    limits.check("tensors", len(members))
    spans = [_span(name, fields, data_start, limits) for name, fields in members.items()]
    _check_tiling(spans, data_start, len(view))
    return Header(tensors={span.name: span for span in spans}, metadata=metadata)


def tensor_at(buffer: Buffer, span: TensorSpan) -> Tensor:
    """The tensor over the buffer's own memory, or a copy where that is read-only or not aligned for the dtype.

    The tensor keeps the buffer alive. ``span`` comes from ``read_header`` over the same buffer."""
    dtype = TORCH_DTYPE_OF[span.dtype]
    if span.numel == 0:
        return torch.empty(span.shape, dtype=dtype)
    view = memoryview(buffer)[span.start : span.end]
    if not view.readonly:
        tensor = torch.frombuffer(view, dtype=dtype)
        if tensor.data_ptr() % dtype.itemsize == 0:
            return tensor.view(span.shape)
    return torch.frombuffer(bytearray(view), dtype=dtype).view(span.shape)


def _data_start(view: memoryview, limits: Limits) -> int:
    if len(view) < LENGTH_BYTES:
        raise AdapterRejected("truncated", tensor="header", expected=f"{LENGTH_BYTES} bytes", got=str(len(view)))
    header_bytes: int = struct.unpack_from("<Q", view)[0]
    _check_is_safetensors(view, header_bytes, limits)
    limits.check("header_bytes", header_bytes, tensor="header")
    if header_bytes > len(view) - LENGTH_BYTES:
        raise AdapterRejected(
            "truncated",
            tensor="header",
            expected=f"a header of {header_bytes} bytes",
            got=f"{len(view) - LENGTH_BYTES} bytes after its length",
        )
    if header_bytes < 2:
        raise AdapterRejected("header", tensor=None, expected="a JSON object", got=f"{header_bytes} bytes")
    return LENGTH_BYTES + header_bytes


def _check_is_safetensors(view: memoryview, header_bytes: int, limits: Limits) -> None:
    """Tells a file of another kind, whose first bytes are no length, from one that was cut off or goes too far."""
    expected = "the length of a JSON header, then that header"
    room = len(view) - LENGTH_BYTES
    if header_bytes > room and header_bytes > limits.header_bytes:
        got = f"{bytes(view[:LENGTH_BYTES])!a}, a length of {header_bytes}, and {room} bytes after it"
        raise AdapterRejected("not a safetensors file", tensor=None, expected=expected, got=got)
    if room and header_bytes and view[LENGTH_BYTES] != ord("{"):
        got = f"{bytes(view[LENGTH_BYTES : LENGTH_BYTES + 1])!a} where the header begins"
        raise AdapterRejected("not a safetensors file", tensor=None, expected=expected, got=got)


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise AdapterRejected(
            "metadata", tensor="__metadata__", expected="an object of strings", got=type(value).__name__
        )
    return cast("dict[str, str]", value)


def _span(name: str, fields: object, data_start: int, limits: Limits) -> TensorSpan:
    shown = name[:80]
    if not name or not name.isprintable():
        raise AdapterRejected("name", tensor=ascii(shown), expected="printable text", got=ascii(shown))
    limits.check("name_bytes", len(name.encode()), tensor=shown)
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise AdapterRejected("header", tensor=shown, expected="dtype, shape and data_offsets", got="other fields")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise AdapterRejected("dtype", tensor=shown, expected="a safetensors dtype", got=ascii(dtype)[:40])
    shape = _naturals(shape, "shape", shown)
    limits.check("rank", len(shape), tensor=shown)
    for dimension in shape:
        limits.check("dimension", dimension, tensor=shown)
    offsets = _naturals(offsets, "data_offsets", shown)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise AdapterRejected("data_offsets", tensor=shown, expected="[start, end]", got=_clip(offsets))
    num_bits = math.prod(shape) * DTYPE_BITS[dtype]
    if num_bits % 8 or offsets[1] - offsets[0] != num_bits // 8:
        raise AdapterRejected(
            "byte length",
            tensor=shown,
            expected=f"{num_bits / 8:g} bytes for {dtype} {list(shape)}",
            got=_clip(offsets[1] - offsets[0]),
        )
    return TensorSpan(name=name, dtype=dtype, shape=shape, start=data_start + offsets[0], end=data_start + offsets[1])


def _naturals(value: object, field: str, tensor: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 63 for item in value):
        raise AdapterRejected(field, tensor=tensor, expected="a list of integers in [0, 2^63)", got=_clip(value))
    return tuple(value)


def _check_tiling(spans: list[TensorSpan], data_start: int, file_bytes: int) -> None:
    end = data_start
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if span.start != end:
            what = "a hole" if span.start > end else "an overlap"
            raise AdapterRejected(
                "data_offsets",
                tensor=span.name,
                expected=f"start {end - data_start}, where the tensor before ends",
                got=f"start {span.start - data_start}, {what}",
            )
        end = span.end
    if end != file_bytes:
        check = "truncated" if end > file_bytes else "trailing bytes"
        raise AdapterRejected(check, tensor=None, expected=f"a file of {end} bytes", got=f"{file_bytes} bytes")


def _clip(value: object) -> str:
    text = ascii(value) if not isinstance(value, int) else f"{value:#x}" if abs(value) >> 64 else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
