"""What is benchmarked: weights, two independent random index sets over them, and the cache lines these touch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, DTypeName, IndexSet
from adapters_store.format.packing import Positions, pack_positions
from adapters_store.kernels import Bound, bind

CACHE_LINE_BYTES = 64
HIDDEN, KV_HIDDEN, INTERMEDIATE = 2048, 512, 8192
LAYER_SHAPES = {  # (out, in) of the linears of a Llama-shaped layer: 60.8 M parameters
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (KV_HIDDEN, HIDDEN),
    "v_proj": (KV_HIDDEN, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (INTERMEDIATE, HIDDEN),
    "up_proj": (INTERMEDIATE, HIDDEN),
    "down_proj": (HIDDEN, INTERMEDIATE),
}
LAYER_PARAMS = sum(rows * columns for rows, columns in LAYER_SHAPES.values())


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row group of the report. Small ``weights`` come in numbers, so that one call takes long enough to time."""

    title: str
    weights: Mapping[str, Tensor]
    sparsity: float
    seed: int

    @property
    def dtype(self) -> DTypeName:
        return DTYPE_NAMES[next(iter(self.weights.values())).dtype]

    @property
    def num_params(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    @cached_property
    def positions(self) -> tuple[list[Tensor], list[Tensor]]:
        """Of the adapters A and B: flat, ascending, one tensor for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        one, other = (
            [random_positions(weight.numel(), self.sparsity, generator) for weight in self.weights.values()]
            for _ in range(2)
        )
        return one, other

    @cached_property
    def bound_a(self) -> Bound:
        return self._bind(self.positions[0])

    @cached_property
    def bound_b(self) -> Bound:
        return self._bind(self.positions[1])

    @cached_property
    def bound_lines(self) -> Bound:
        """One entry for each cache line that A touches: the first word of it."""
        item_size = next(iter(self.weights.values())).element_size()
        return self._bind([first_of_lines(flat, item_size) for flat in self.positions[0]])

    def _bind(self, positions: list[Tensor]) -> Bound:
        return bind(self.index_set(positions), list(self.weights.values()))

    def index_set(self, positions: list[Tensor]) -> IndexSet:
        return pack_positions(
            [
                Positions(name=name, shape=tuple(weight.shape), dtype=self.dtype, flat=flat)
                for (name, weight), flat in zip(self.weights.items(), positions, strict=True)
            ]
        )


def square_weights(size: int, dtype: torch.dtype, *, total_bytes: int) -> dict[str, Tensor]:
    """As many (size, size) weights as fill ``total_bytes``, at least one."""
    one_bytes = size * size * torch.empty(0, dtype=dtype).element_size()
    return {f"w{i:03d}": new_weight((size, size), dtype) for i in range(-(-total_bytes // one_bytes))}


def llama_weights(num_params: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Whole layers, nearest to ``num_params``, at least one; names in byte order."""
    num_layers = max(1, round(num_params / LAYER_PARAMS))
    names = sorted(
        (f"layers_{layer:03d}_{name}", shape) for layer in range(num_layers) for name, shape in LAYER_SHAPES.items()
    )
    return {name: new_weight(shape, dtype) for name, shape in names}


def new_weight(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Small varying values; drawing a billion normal numbers would take longer than the benchmark."""
    return (torch.arange(shape[0] * shape[1], dtype=torch.int32) % 509).to(dtype).div_(4096).view(shape)


def random_positions(numel: int, density: float, generator: torch.Generator) -> Tensor:
    """Each position with probability ``density``, by the geometric gaps between them; never empty."""
    expected = numel * density
    num_gaps = int(expected + 10 * expected**0.5 + 10)
    gaps = torch.empty(num_gaps).geometric_(density, generator=generator).to(torch.int64)
    flat = gaps.cumsum(0) - 1
    return torch.cat([flat[:1] % numel, flat[1:][flat[1:] < numel]])


def first_of_lines(flat: Tensor, item_size: int) -> Tensor:
    words_per_line = CACHE_LINE_BYTES // item_size
    lines: Tensor = torch.unique_consecutive(flat // words_per_line)
    return lines * words_per_line
