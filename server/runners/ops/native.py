"""The operations in C for float32 and bfloat16 on a CPU: addresses in Python, then one call without the GIL."""

from __future__ import annotations

import struct
from functools import cache

import torch
from torch import Tensor

from server.runners.ops import _native
from server.runners.ops.interface import HeadNorms, LayerPages, Norm, RopeTable
from server.runners.ops.ragged import Ragged

ISAS = {"c-avx512": 2, "c-avx2": 1, "c-scalar": 0}  # fastest first; numbers as in csrc/ops.h
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
MAX_HEAD_DIM = 256


def supported_isas() -> tuple[str, ...]:
    """Names of the variants that this machine can run, fastest first."""
    return tuple(name for name, isa in ISAS.items() if _native.supports(isa))


class NativeOps:
    """Satisfies Ops. Uses as many threads as torch does at the time of the call.

    Trusts shapes: the decoder makes all tensors from one config and checks positions against pages. Heads are even in
    size and at most MAX_HEAD_DIM."""

    def __init__(self, name: str) -> None:
        if name not in supported_isas():
            raise ValueError(f"ops: expected one of {', '.join(supported_isas())}, got {name!r}")
        self._name = name
        self._isa = ISAS[name]

    @property
    def name(self) -> str:
        return self._name

    def add_rms_norm_(self, x: Tensor, update: Tensor, norm: Norm) -> Tensor:
        out = torch.empty_like(x)
        _native.add_rms_norm(
            *self._how(x, update),
            x.data_ptr(),
            update.data_ptr(),
            norm.weight.data_ptr(),
            out.data_ptr(),
            *x.shape,
            _bits(norm.eps),
        )
        return out

    def rope_and_store_(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        norms: HeadNorms | None,
        rope: RopeTable,
        ragged: Ragged,
        pages: LayerPages,
    ) -> None:
        head_norms = (0, 0, 0, 0) if norms is None else (*_norm_arguments(norms.query), *_norm_arguments(norms.key))
        _native.rope_and_store(
            *self._how(q, k, v),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q.shape[1] // pages.head_dim,
            *head_norms,
            rope.turns.data_ptr(),
            *ragged.addresses,
            *pages.arguments,
        )

    def attention(self, q: Tensor, *, scale: float, ragged: Ragged, pages: LayerPages) -> Tensor:
        out = torch.empty_like(q)
        _native.attention(
            *self._how(q),
            q.data_ptr(),
            out.data_ptr(),
            q.shape[1] // pages.head_dim,
            _bits(scale),
            *ragged.addresses,
            *pages.arguments,
        )
        return out

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        out = torch.empty_like(gate)
        _native.swiglu(*self._how(gate, up), gate.data_ptr(), up.data_ptr(), out.data_ptr(), *gate.shape)
        return out

    def _how(self, first: Tensor, *others: Tensor) -> tuple[int, int, int]:
        """Instruction set, threads and dtype."""
        for tensor in (first, *others):
            if tensor.dtype != first.dtype or not tensor.is_contiguous():
                raise ValueError(f"expected contiguous {first.dtype}, got {tensor.dtype} with stride {tensor.stride()}")
        return self._isa, torch.get_num_threads(), DTYPE_CODES[first.dtype]


def _norm_arguments(norm: Norm) -> tuple[int, int]:
    return norm.weight.data_ptr(), _bits(norm.eps)


@cache
def _bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")
