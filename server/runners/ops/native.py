"""The operations in C for float32 and bfloat16 on a CPU: addresses in Python, then one call without the GIL."""

from __future__ import annotations

import struct
from functools import cache

import torch
from torch import Tensor

from adapters_store.kernels import _native as _kernels
from server.runners.ops import _native
from server.runners.ops.interface import HeadNorms, LayerPages, Norm, RopeTable
from server.runners.ops.ragged import Ragged

ISAS = {"c-avx512": 2, "c-avx2": 1, "c-scalar": 0}  # fastest first; numbers as in csrc/ops.h
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
MAX_HEAD_DIM = 256

_native.use_pool(_kernels.pool())


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

    def add_norm_(self, x: Tensor, update: Tensor, norm: Norm) -> None:
        addresses = x.data_ptr(), update.data_ptr(), norm.weight.data_ptr()
        _native.add_norm(*self._how(x, update), *addresses, *x.shape, _bits(norm.eps))

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
            *self._how(q, k),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            q.shape[1] // pages.head_dim,
            *head_norms,
            rope.turns.data_ptr(),
            *ragged.addresses,
            *pages.arguments,
        )

    def attend_(self, q: Tensor, *, scale: float, ragged: Ragged, pages: LayerPages) -> None:
        num_heads = q.shape[1] // pages.head_dim
        _native.attend(*self._how(q, q), q.data_ptr(), num_heads, _bits(scale), *ragged.addresses, *pages.arguments)

    def gate_(self, gate: Tensor, up: Tensor) -> None:
        _native.gate(*self._how(gate, up), gate.data_ptr(), up.data_ptr(), *gate.shape)

    def _how(self, x: Tensor, y: Tensor) -> tuple[int, int, int]:
        """Instruction set, threads and dtype."""
        if x.dtype != y.dtype or not (x.is_contiguous() and y.is_contiguous()):
            raise ValueError(f"expected contiguous {x.dtype}, got {y.dtype}, strides {x.stride()} and {y.stride()}")
        return self._isa, torch.get_num_threads(), DTYPE_CODES[x.dtype]


def _norm_arguments(norm: Norm) -> tuple[int, int]:
    return norm.weight.data_ptr(), _bits(norm.eps)


@cache
def _bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")
