"""Lays out safetensors files: the bytes are a function of the input."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adapters_store.adapter import canonical_json, tensor_bytes
from adapters_store.container.header import DTYPE_CODES

DATA_ALIGNMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class TensorPart:
    name: str
    tensor: Tensor  # on the CPU, contiguous


def container_parts(tensors: Sequence[TensorPart], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The file as a list of buffers, nothing copied. Data follow in the given order; the header is padded with spaces
    so that they start at a multiple of 64 bytes: give the widest dtype first and every tensor is aligned."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for part in tensors:
        end = offset + part.tensor.nbytes
        header[part.name] = {
            "dtype": DTYPE_CODES[part.tensor.dtype],
            "shape": list(part.tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = canonical_json(header)
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT_BYTES)
    return [struct.pack("<Q", len(text)) + text, *(tensor_bytes(part.tensor) for part in tensors)]
