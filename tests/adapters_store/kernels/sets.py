"""Small real index sets and weights with arbitrary bits, and byte-wise comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    DTYPE_NAMES,
    IndexSet,
    build_index_set,
    build_table,
    num_blocks,
)
from adapters_store.kernels import Bound, Kernels, bind, new_words

Weights = dict[str, Tensor]

# Smaller than a block, exactly one, not a multiple, several, one-dimensional, four-dimensional, one element.
SHAPES: tuple[tuple[int, ...], ...] = ((40, 50), (256, 256), (300, 401), (7,), (70_001,), (3, 4, 5, 6), (1,))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def arbitrary_bits(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Any bit pattern: NaN payloads, infinities, −0 and denormals included."""
    size = torch.empty(0, dtype=dtype).element_size()
    low, high, word = (-(2**15), 2**15, torch.int16) if size == 2 else (-(2**31), 2**31, torch.int32)
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int64).to(word).view(dtype)


def make_weights(dtypes: Sequence[torch.dtype], seed: int = 0) -> Weights:
    """One weight of every shape, the dtypes taking turns."""
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": arbitrary_bits(shape, dtypes[i % len(dtypes)], generator) for i, shape in enumerate(SHAPES)}


def make_index_set(weights: Mapping[str, Tensor], density: float, seed: int) -> IndexSet:
    """Each position with probability ``density``; 0 leaves every block empty, 1 fills every block."""
    generator = torch.Generator().manual_seed(seed)
    return index_set_at(
        weights,
        {
            name: torch.nonzero(torch.rand(weight.numel(), generator=generator) < density).flatten()
            for name, weight in weights.items()
        },
    )


def index_set_at(weights: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> IndexSet:
    """The set of these flat positions (ascending) in each weight."""
    rows = [(name, tuple(w.shape), DTYPE_NAMES[w.dtype], positions[name].numel()) for name, w in weights.items()]
    counts = [
        torch.bincount(positions[name] // BLOCK_ELEMENTS, minlength=num_blocks(w.numel()))
        for name, w in weights.items()
    ]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(0)])
    indices = torch.cat([positions[name] % BLOCK_ELEMENTS for name in weights]).to(torch.uint16)
    return build_index_set(build_table(rows), offsets, indices)


def bind_all(index_set: IndexSet, weights: Mapping[str, Tensor]) -> Bound:
    return bind(index_set, [weights[entry.name] for entry in index_set.table])


def random_words(bound: Bound, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (bound.words_bytes,), generator=generator, dtype=torch.uint8)


def displaced_by(kernels: Kernels, bound: Bound, words: Tensor) -> Tensor:
    """Exchanges ``words`` in and returns what they displaced."""
    displaced = new_words(bound)
    kernels.exchange(bound, words, displaced)
    return displaced


def copy_of(weights: Weights) -> Weights:
    return {name: weight.clone() for name, weight in weights.items()}


def differing(weights: Weights, others: Weights) -> list[str]:
    """Names of the weights whose bytes differ."""
    return [name for name in weights if not same_bytes(weights[name], others[name])]


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def same_words(bound: Bound, one: Tensor, other: Tensor) -> bool:
    """Equal but for the padding between weights."""
    return all(torch.equal(part.words_of(one), part.words_of(other)) for part in bound.parts())
