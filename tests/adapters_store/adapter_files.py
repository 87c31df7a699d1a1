"""Adapters and files for tests of the format: well-formed ones, and the parts to make bad ones from."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, DTypeName, Fingerprint, build_adapter
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.format import Positions, pack_positions

BASE = Fingerprint("sha256:" + "cd" * 32)
SHAPES: dict[str, tuple[int, ...]] = {"a.weight": (300, 400), "b.weight": (70,), "c.weight": (64, 32)}
STORED: DTypeName = "bfloat16"


def description(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES, *, dtype: str = STORED, fingerprint: Fingerprint = BASE
) -> BaseDescription:
    weights = {name: BaseWeight(name=name, shape=shape, dtype=dtype) for name, shape in shapes.items()}
    return BaseDescription(fingerprint=fingerprint, weights=weights)


def make_adapter(
    positions: Mapping[str, Sequence[int]],
    values: Sequence[float] | Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    base: Fingerprint = BASE,
) -> Adapter:
    """Over SHAPES. ``values`` in order of name, then of position; random when not given."""
    index_set = pack_positions(
        [
            Positions(name=name, shape=SHAPES[name], dtype=STORED, flat=torch.tensor(sorted(positions[name])))
            for name in sorted(positions)
        ]
    )
    if values is None:
        values = torch.randn(index_set.num_entries, generator=torch.Generator().manual_seed(1))
    return build_adapter(base=base, index_set=index_set, values=torch.as_tensor(values).to(dtype))


def sample_adapter() -> Adapter:
    """Three blocks in two weights, one of them empty at its start."""
    return make_adapter({"a.weight": [65_536, 65_540, 119_999], "c.weight": [0, 31, 32, 2047]})


def container(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header at all, given as bytes or as a JSON value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def native_parts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, as the safetensors library reads it."""
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def write_native(path: Path, tensors: dict[str, Tensor], manifest: Mapping[str, Any] | str, **metadata: str) -> Path:
    """A file made by the safetensors library with this manifest, true or not."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    safetensors.torch.save_file(tensors, path, metadata={"shira": text, **metadata})
    return path


def same_bits(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
    )
