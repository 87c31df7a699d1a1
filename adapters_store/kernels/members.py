"""What a union must be given: checked before anything is allocated or read through a pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES
from adapters_store.kernels.interface import UnionMember


def check_members(num_blocks: int, members: Sequence[UnionMember]) -> None:
    """Raises ValueError naming member and field."""
    if not members:
        raise ValueError("members: expected at least one, got none")
    for number, member in enumerate(members):
        where = f"members[{number}]"
        _check_form(where, "blocks", member.blocks, (torch.int64,), num_blocks)
        _check_form(where, "offsets", member.offsets, (torch.int64,), None)
        _check_form(where, "indices", member.indices, (torch.uint16,), None)
        _check_form(where, "values", member.values, tuple(DTYPE_NAMES), member.indices.numel())
        if not math.isfinite(member.scale):
            raise ValueError(f"{where}.scale: expected a finite number, got {member.scale}")
        _check_offsets(where, member)


def _check_form(where: str, field: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], size: int | None) -> None:
    if tensor.dtype not in dtypes or tensor.dim() != 1 or not tensor.is_contiguous():
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"{where}.{field}: expected contiguous {expected} (n,), got {tensor.dtype} {tensor.shape}")
    if size is not None and tensor.numel() != size:
        raise ValueError(f"{where}.{field}: expected {size} elements, got {tensor.numel()}")


def _check_offsets(where: str, member: UnionMember) -> None:
    offsets, blocks = member.offsets.cpu(), member.blocks.cpu()
    num_own = offsets.numel() - 1
    if num_own < 0 or offsets[0] != 0 or offsets[-1] != member.indices.numel() or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{where}.offsets: expected ascending from 0 to {member.indices.numel()}")
    if blocks.numel() and (int(blocks.min()) < -1 or int(blocks.max()) >= num_own):
        raise ValueError(f"{where}.blocks: expected −1 or below {num_own}, got {int(blocks.min())}…{int(blocks.max())}")
