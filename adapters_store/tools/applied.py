"""A blend in the weights of a plain torch model, for a while: the words the server would write, then the base back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from adapters_store.adapter import DTYPE_NAMES, Adapter
from adapters_store.blend import Blend, BlendMember, Fusion
from adapters_store.errors import BlendRejected
from adapters_store.fusion import fuse
from adapters_store.kernels import Journal, bind, get_kernels, new_words, resolve, rollback

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
    parameters = {name: weight.detach() for name, weight in model.named_parameters(remove_duplicate=False)}
    bound = bind(delta.index_set, resolve(parameters, delta.index_set.table))
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


def _members(members: Sequence[tuple[Adapter, float]]) -> tuple[BlendMember, ...]:
    return tuple(BlendMember(version=adapter.version, scale=scale) for adapter, scale in members)


def _on_device(adapter: Adapter, device: torch.device) -> Adapter:
    if adapter.values.device == device:
        return adapter
    return dataclasses.replace(adapter, index_set=adapter.index_set.on(device), values=adapter.values.to(device))
