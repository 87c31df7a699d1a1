"""Which positions of each weight an adapter may touch (SHiRA, arXiv 2406.13175, section 3.1 and appendix B).

- ``struct``  every ``period``-th row or column, from an offset on, and the diagonal
- ``rand``    drawn at random without replacement
- ``wm``      the largest |W|; task j of several that must not overlap takes ranks [jK, (j + 1)K)
- ``grad``    the largest |accumulated gradient| on a calibration sample
- ``snip``    the largest |W · accumulated gradient|

A convolution's weight (out, in, height, width) counts as the matrix (out, in · height · width) it is as a product: its
rows are output channels, its columns one tap of one input channel each.

All but ``struct`` are one score per position and the K best of each weight, K = max(1, floor(sparsity · numel)), or
R(rows + columns) where a rank R is given, the count that PEFT's SHiRA demands. Scores are integers, so their order is
total and the same on every machine that computes the same scores; equal scores go to the lower flat index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, IndexSet
from adapters_store.format.packing import Positions, pack_positions

MaskName = Literal["struct", "rand", "wm", "grad", "snip"]
Axis = Literal["rows", "columns"]
CALIBRATED: tuple[MaskName, ...] = ("grad", "snip")  # masks that need gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecipe:
    """``seed`` is for ``rand``, ``task`` for ``wm``, ``axis`` and ``offset`` for ``struct``. ``rank`` instead of
    ``sparsity`` fixes the count of each matrix to rank · (rows + columns), for all masks but ``struct``."""

    mask: MaskName
    sparsity: float = 0.01
    rank: int | None = None
    seed: int = 0
    task: int = 0
    axis: Axis = "rows"
    offset: int = 0


def build_mask(
    weights: Iterable[tuple[str, Tensor]],
    mask: MaskName,
    *,
    sparsity: float = 0.01,
    rank: int | None = None,
    seed: int = 0,
    task: int = 0,
    axis: Axis = "rows",
    offset: int = 0,
    gradients: Mapping[str, Tensor] | None = None,
) -> IndexSet:
    """The index set of a ``MaskRecipe`` over ``weights``, read one at a time, in their stored dtype. ``gradients``, of
    the weights' shapes, are what ``grad`` and ``snip`` rank by.

    Raises ValueError for a sparsity outside (0, 1], more ranks than a weight has entries, and a weight that is empty,
    not finite, of another dtype, or no matrix where the mask needs one.
    """
    if not 0 < sparsity <= 1:
        raise ValueError(f"sparsity: expected more than 0 and at most 1, got {sparsity}")
    recipe = MaskRecipe(mask=mask, sparsity=sparsity, rank=rank, seed=seed, task=task, axis=axis, offset=offset)
    rows: list[Positions] = []
    for name, weight in weights:
        _check_weight(name, weight)
        flat = positions_in(recipe, name, weight, gradient=gradients[name] if gradients else None)
        rows.append(Positions(name=name, shape=tuple(weight.shape), dtype=DTYPE_NAMES[weight.dtype], flat=flat))
    return pack_positions(sorted(rows, key=lambda row: row.name.encode()))


def positions_in(recipe: MaskRecipe, name: str, weight: Tensor, *, gradient: Tensor | None = None) -> Tensor:
    """Ascending flat positions in one weight, int64 (k,)."""
    match recipe.mask:
        case "struct":
            return struct_positions(recipe, name, weight)
        case "rand":
            scores = score_rand(name, weight, recipe.seed)
        case "wm":
            scores = magnitude_bits(weight)
        case "grad":
            scores = magnitude_bits(_checked_gradient(name, weight, gradient))
        case "snip":
            scores = magnitude_bits(weight.float() * _checked_gradient(name, weight, gradient))
        case _:
            assert_never(recipe.mask)
    task = recipe.task if recipe.mask == "wm" else 0
    return ranked(scores, _count(recipe, name, weight), task=task, name=name)


def num_kept(numel: int, sparsity: float) -> int:
    return max(1, math.floor(sparsity * numel))


def struct_positions(recipe: MaskRecipe, name: str, weight: Tensor) -> Tensor:
    """Lines ``offset``, ``offset + period``, … and the diagonal. The period is the smallest one whose entries,
    diagonal included, fit the share that ``sparsity`` allows; at the very least one line is taken."""
    shape = _matrix_shape(name, weight, what="the mask struct")
    num_lines = shape[0 if recipe.axis == "rows" else 1]
    budget = num_kept(weight.numel(), recipe.sparsity)
    period = next((p for p in range(1, num_lines) if _num_struct(shape, recipe.axis, p) <= budget), num_lines)
    is_kept = torch.zeros(shape, dtype=torch.bool)
    lines = torch.arange(recipe.offset % period, num_lines, period)
    is_kept.index_fill_(0 if recipe.axis == "rows" else 1, lines, value=True)
    is_kept.fill_diagonal_(True)
    return is_kept.flatten().nonzero().flatten()


def score_rand(name: str, weight: Tensor, seed: int) -> Tensor:
    """Uniform without replacement: 63 random bits per position. The stream is keyed by the seed and the weight's
    name, so weights of one shape differ, and Philox words are the same with every numpy."""
    key = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16], dtype="<u8")
    words = np.random.Philox(key=key).random_raw(weight.numel())
    return torch.from_numpy((words >> np.uint64(1)).view(np.int64))


def magnitude_bits(tensor: Tensor) -> Tensor:
    """|x| as integers, flat: the bits of a float without its sign order like its magnitude."""
    integer, mask = _MAGNITUDE[tensor.dtype]
    return tensor.detach().contiguous().flatten().view(integer) & mask


_MAGNITUDE = {
    torch.float32: (torch.int32, 0x7FFFFFFF),
    torch.bfloat16: (torch.int16, 0x7FFF),
    torch.float16: (torch.int16, 0x7FFF),
}


def ranked(scores: Tensor, count: int, *, task: int, name: str) -> Tensor:
    """Ascending positions of ranks [task · count, (task + 1) · count), best first. Raises ValueError beyond the end."""
    end = (task + 1) * count
    if end > scores.numel():
        raise ValueError(f"{name}: entries: expected at least {end} to choose {count} from, got {scores.numel()}")
    best = top_k(scores, end)
    if task == 0:
        return best
    is_ours = torch.zeros(scores.numel(), dtype=torch.bool)
    is_ours[best] = True
    is_ours[top_k(scores, end - count)] = False
    return is_ours.nonzero().flatten()


def top_k(scores: Tensor, k: int) -> Tensor:
    """Ascending positions, int64 (k,), of the ``k`` largest scores; ties to the lower position."""
    threshold = torch.kthvalue(scores, scores.numel() - k + 1).values
    above = torch.nonzero(scores > threshold).flatten()
    level = torch.nonzero(scores == threshold).flatten()[: k - above.numel()]
    return torch.cat([above, level]).sort().values


def _num_struct(shape: tuple[int, int], axis: Axis, period: int) -> int:
    """Entries of the mask with the offset that gives the most: of those with the most lines, the last, whose lines
    hold the least of the diagonal."""
    num_lines, line_length = shape if axis == "rows" else (shape[1], shape[0])
    taken = -(-num_lines // period)
    diagonal = min(shape)
    return taken * line_length + diagonal - len(range((num_lines - 1) % period, diagonal, period))


def _count(recipe: MaskRecipe, name: str, weight: Tensor) -> int:
    if recipe.rank is None:
        return num_kept(weight.numel(), recipe.sparsity)
    return recipe.rank * sum(_matrix_shape(name, weight, what="a rank"))


def _matrix_shape(name: str, weight: Tensor, *, what: str) -> tuple[int, int]:
    if weight.dim() < 2:
        raise ValueError(f"{name}: shape: expected a matrix for {what}, got {tuple(weight.shape)}")
    return weight.shape[0], weight[0].numel()


def _checked_gradient(name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
    """In float32."""
    if gradient is None or gradient.shape != weight.shape:
        got = "none" if gradient is None else str(tuple(gradient.shape))
        raise ValueError(f"{name}: gradient: expected one of shape {tuple(weight.shape)}, got {got}")
    if not torch.isfinite(gradient).all():
        raise ValueError(f"{name}: gradient: expected every element finite, got NaN or infinity")
    return gradient.float()


def _check_weight(name: str, weight: Tensor) -> None:
    if weight.dtype not in DTYPE_NAMES:
        raise ValueError(f"{name}: dtype: expected one of {', '.join(DTYPE_NAMES.values())}, got {weight.dtype}")
    if weight.numel() == 0:
        raise ValueError(f"{name}: shape: expected at least one element, got {tuple(weight.shape)}")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name}: finite: expected every element finite, got NaN or infinity")
