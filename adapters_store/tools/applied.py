"""A blend in the weights of a plain torch model, for a while: the words the server would write, then the base back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adapters_store.adapter import DTYPE_NAMES, Adapter, WeightTable
from adapters_store.blend import Blend, BlendMember, Fusion
from adapters_store.errors import BlendRejected
from adapters_store.fusion import fuse
from adapters_store.kernels import Journal, bind, get_kernels, new_words, rollback

PLAIN_SUM = Fusion()


@contextmanager
def applied(model: nn.Module, members: Sequence[tuple[Adapter, float]], fusion: Fusion = PLAIN_SUM) -> Iterator[None]:
    """Inside, ``model`` holds the blend of these (adapter, scale); on leaving, the base again, bit for bit.

    Words are what the server stages: round(fp32(W0) + Σ), rounded once to the dtype the model is loaded in, members in
    order of version. No members: the base. The model must hold the base and keep its weights' storage; what autograd
    saved of a weight must not be used across the edge. Raises BlendRejected, BaseMismatch, and ValueError for weights
    that are not contiguous float ones; nothing is written then.
    """
    blend = Blend(members=_members(members), fusion=fusion)
    if blend.is_base:
        yield
        return
    device = next(model.parameters()).device
    kernels = get_kernels(device)
    adapters = {adapter.version: _on_device(adapter, device) for adapter, _ in members}
    delta = fuse([(adapters[member.version], member.scale) for member in blend.members], fusion, kernels)
    bound = bind(delta.index_set, resolve_weights(model, delta.index_set.table))
    staging = kernels.stage(bound, delta.delta)
    if staging.num_out_of_range:
        dtypes = " and ".join(sorted({DTYPE_NAMES[weight.dtype] for weight in bound.weights}))
        raise BlendRejected(
            f"{staging.num_out_of_range} of {bound.num_entries} weights would leave the range of {dtypes}; "
            "use a smaller scale"
        )
    displaced, journal = new_words(bound), Journal()
    try:
        kernels.exchange(bound, staging.words, displaced, journal)
        yield
    finally:
        rollback(kernels, journal, bound, displaced)


def resolve_weights(model: nn.Module, table: WeightTable) -> list[Tensor]:
    """The parameters that a table of weights names, in its order; every name of a tied weight leads to its storage.

    Raises BlendRejected for a name or shape that the model does not have, or two names of one tied weight."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named: dict[int, str] = {}
    for entry in table:
        weight = parameters.get(entry.name)
        if weight is None:
            raise BlendRejected(f"{entry.name}: the loaded model has no weight of this name to write to")
        if tuple(weight.shape) != entry.shape:
            raise BlendRejected(
                f"{entry.name}: the adapter expects shape {entry.shape}, the loaded weight has {tuple(weight.shape)}"
            )
        other = named.setdefault(weight.data_ptr(), entry.name)
        if other != entry.name:
            raise BlendRejected(f"{entry.name} and {other} are tied to one weight; an adapter may name one of them")
    return [parameters[entry.name].detach() for entry in table]


def _members(members: Sequence[tuple[Adapter, float]]) -> tuple[BlendMember, ...]:
    return tuple(BlendMember(version=adapter.version, scale=scale) for adapter, scale in members)


def _on_device(adapter: Adapter, device: torch.device) -> Adapter:
    if adapter.values.device == device:
        return adapter
    index_set = adapter.index_set
    offsets, indices = index_set.offsets.to(device), index_set.indices.to(device)
    index_set = dataclasses.replace(index_set, offsets=offsets, indices=indices)
    return dataclasses.replace(adapter, index_set=index_set, values=adapter.values.to(device))
