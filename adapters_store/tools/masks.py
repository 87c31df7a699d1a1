"""Which positions of each weight an adapter may touch: a score per position, and the K best of each weight.

A mask is a score function; ``build_mask`` does the rest. Scores are integers, so their order is total and the same
on every machine; equal scores go to the lower flat index. A further mask (structured, gradient, sensitivity) is one
more score function and one more row of ``SCORES``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, IndexSet
from adapters_store.format.packing import Positions, pack_positions

MaskName = Literal["rand", "wm"]
Score = Callable[[str, Tensor, int], Tensor]  # (weight name, weight as stored, seed) -> integers (numel,)


def build_mask(weights: Iterable[tuple[str, Tensor]], mask: MaskName, *, sparsity: float, seed: int = 0) -> IndexSet:
    """The index set of ``mask`` over ``weights``, read one at a time, in their stored dtype.

    Raises ValueError for a sparsity outside (0, 1], a weight that is empty, not finite or of another dtype.
    """
    if not 0 < sparsity <= 1:
        raise ValueError(f"sparsity: expected more than 0 and at most 1, got {sparsity}")
    score = SCORES[mask]
    rows: list[Positions] = []
    for name, weight in weights:
        _check_weight(name, weight)
        flat = top_k(score(name, weight, seed), num_kept(weight.numel(), sparsity))
        rows.append(Positions(name=name, shape=tuple(weight.shape), dtype=DTYPE_NAMES[weight.dtype], flat=flat))
    return pack_positions(sorted(rows, key=lambda row: row.name.encode()))


def num_kept(numel: int, sparsity: float) -> int:
    return max(1, math.floor(sparsity * numel))


def score_rand(name: str, weight: Tensor, seed: int) -> Tensor:
    """Uniform without replacement: 63 random bits per position. The stream is keyed by the seed and the weight's
    name, so weights of one shape differ, and Philox words are the same with every numpy."""
    key = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], dtype="<u8")
    words = np.random.Philox(key=key).random_raw(weight.numel())
    return torch.from_numpy((words >> np.uint64(1)).view(np.int64))


def score_wm(name: str, weight: Tensor, seed: int) -> Tensor:
    """|W|: the bits of a float without its sign order like its magnitude."""
    integer, magnitude_bits = _BITS[weight.dtype]
    return weight.detach().contiguous().flatten().view(integer) & magnitude_bits


SCORES: dict[MaskName, Score] = {"rand": score_rand, "wm": score_wm}

_BITS = {
    torch.float32: (torch.int32, 0x7FFFFFFF),
    torch.bfloat16: (torch.int16, 0x7FFF),
    torch.float16: (torch.int16, 0x7FFF),
}


def top_k(scores: Tensor, k: int) -> Tensor:
    """Ascending positions, int64 (k,), of the ``k`` largest scores; ties to the lower position."""
    threshold = torch.kthvalue(scores, scores.numel() - k + 1).values
    above = torch.nonzero(scores > threshold).flatten()
    level = torch.nonzero(scores == threshold).flatten()[: k - above.numel()]
    return torch.cat([above, level]).sort().values


def _check_weight(name: str, weight: Tensor) -> None:
    if weight.dtype not in DTYPE_NAMES:
        raise ValueError(f"{name}: dtype: expected one of {', '.join(DTYPE_NAMES.values())}, got {weight.dtype}")
    if weight.numel() == 0:
        raise ValueError(f"{name}: shape: expected at least one element, got {tuple(weight.shape)}")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}: finite: expected every element finite, got NaN or infinity")
