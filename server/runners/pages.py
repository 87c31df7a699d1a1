"""The KV memory of a decoder: pages of every layer in one allocation, laid out for the CPU kernel."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from server.runners.ops.interface import LayerPages
from server.runners.page_table import PAGE_TOKENS, PageTable

LANES = 16  # rows of values are padded to a multiple of it


class Pages:
    """Keys and values of ``table.num_pages`` pages in every layer. ``table`` says whose they are."""

    def __init__(self, shape: KvShape, *, device: torch.device, budget_bytes: int) -> None:
        """Takes address space for as many pages as the budget allows; the system gives memory as they are written.

        Raises ValueError if there is no room for one page."""
        num_pages = budget_bytes // shape.page_bytes
        if num_pages < 1:
            raise ValueError(f"budget_bytes: expected at least one page of {shape.page_bytes}, got {budget_bytes}")
        self.shape = shape
        self.table = PageTable(num_pages)
        pages = (shape.num_layers, num_pages, shape.num_kv_heads)
        keys = _room((*pages, shape.head_dim, PAGE_TOKENS), shape.dtype, device)
        values = _room((*pages, PAGE_TOKENS, shape.value_dim), shape.dtype, device)
        self.layers = [LayerPages(keys=k, values=v) for k, v in zip(keys, values, strict=True)]

    @property
    def num_tokens(self) -> int:
        return self.table.num_pages * PAGE_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """What one model keeps of a token."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def value_dim(self) -> int:
        """``head_dim``, padded so that the kernel reads whole vectors."""
        return -(-self.head_dim // LANES) * LANES

    @property
    def page_bytes(self) -> int:
        """Of one page in all layers."""
        per_token = self.num_layers * self.num_kv_heads * (self.head_dim + self.value_dim)
        return per_token * PAGE_TOKENS * self.dtype.itemsize


def _room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised. On Linux in huge pages where the system grants them: a step reads pages from all over the memory,
    and finding each one's address took a third of the time of attention."""
    if device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
