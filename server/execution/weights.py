"""The base in memory: canonical weight names → contiguous tensors whose storage never moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from adapters_store.adapter import (
    DTYPE_NAMES,
    Digest,
    DTypeName,
    Fingerprint,
    WeightTable,
    canonical_json,
    sha256_digest,
    tensor_bytes,
)
from adapters_store.kernels import resolve

if TYPE_CHECKING:
    import torch

    from adapters_store.base import BaseDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeight:
    """One storage of the base. ``aliases`` are the other names tied to it; ``digest`` is of its bytes as loaded."""

    name: str
    tensor: Tensor
    aliases: tuple[str, ...]
    digest: Digest


class BaseWeights:
    """Every weight of the loaded model, once per storage. The tensors are owned by whoever runs on the engine
    thread; only an execution writes into them, and it puts back what it displaced."""

    def __init__(self, parameters: Mapping[str, Tensor], description: BaseDescription) -> None:
        """``parameters`` may name one storage several times (tied). Hashes every byte: once, at start.

        Raises ValueError for a weight that is not contiguous or of a dtype that adapters cannot address."""
        self.description = description
        self.weights = _by_storage(parameters)
        self._tensors = {name: weight.tensor for weight in self.weights for name in (weight.name, *weight.aliases)}

    @property
    def fingerprint(self) -> Fingerprint:
        return self.description.fingerprint

    @cached_property
    def digest(self) -> Digest:
        return combined_digest({weight.name: weight.digest for weight in self.weights})

    @property
    def num_bytes(self) -> int:
        return sum(weight.tensor.nbytes for weight in self.weights)

    @property
    def dtype(self) -> DTypeName:
        """The dtype most of the elements are in."""
        counts: dict[torch.dtype, int] = {}
        for weight in self.weights:
            counts[weight.tensor.dtype] = counts.get(weight.tensor.dtype, 0) + weight.tensor.numel()
        return DTYPE_NAMES[max(counts, key=lambda dtype: counts[dtype])]

    @property
    def device(self) -> torch.device:
        return self.weights[0].tensor.device

    def resolve(self, table: WeightTable) -> list[Tensor]:
        """The tensors that a table of weights names, in its order.

        Raises BlendRejected for a name this model does not have as stored, or two names of one tied storage."""
        return resolve(self._tensors, table)


def combined_digest(digests: Mapping[str, str]) -> Digest:
    """The digest of a whole model from its weights' digests by name."""
    return sha256_digest(b"shira.loaded.v1\n", canonical_json(dict(digests)))


def _by_storage(parameters: Mapping[str, Tensor]) -> tuple[LoadedWeight, ...]:
    names: dict[int, list[str]] = {}
    for name, tensor in parameters.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{name}: expected a float weight, got {tensor.dtype}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: expected a contiguous weight, got strides {tensor.stride()}")
        if tensor.numel():
            names.setdefault(tensor.data_ptr(), []).append(name)
    return tuple(
        LoadedWeight(
            name=tied[0],
            tensor=parameters[tied[0]].detach(),
            aliases=tuple(tied[1:]),
            digest=sha256_digest(tensor_bytes(parameters[tied[0]].cpu())),
        )
        for tied in names.values()
    )
