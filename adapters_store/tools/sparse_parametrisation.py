"""Every layer of an index set made sparse-trainable inside a model, for a while."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from adapters_store.adapter import IndexSet
from adapters_store.format.packing import unpack_positions
from adapters_store.tools.sparse_conv import SparseConv2d
from adapters_store.tools.sparse_layer import SparseLayer
from adapters_store.tools.sparse_linear import LINEAR, SparseDoraLinear, SparseLinear

TRAINABLE = (*LINEAR, nn.Conv2d)


class SparseParametrisation:
    """The layers of ``index_set`` made sparse-trainable inside ``model``, all else frozen.

    A context manager: on leaving, the layers are the model's own again, their weights the base bit for bit, and
    ``requires_grad`` is as it was. Raises ValueError for a weight that is not that of a linear layer or a convolution
    of ``model``.
    """

    def __init__(self, model: nn.Module, index_set: IndexSet, *, dora: bool = False) -> None:
        self.model = model
        self.index_set = index_set
        self.layers: dict[str, SparseLayer] = {}  # by weight name, in the order of the table
        self._frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        layers = {entry.name: layer_of_weight(model, entry.name, shape=entry.shape) for entry in index_set.table}
        for name, layer in layers.items():
            _check_untied(model, name, layer.get_parameter("weight"))
        for entry, positions in unpack_positions(index_set):
            self.layers[entry.name] = _sparse(entry.name, layers[entry.name], positions, dora=dora)
        model.requires_grad_(False)
        for name, sparse in self.layers.items():
            _replace(model, name, sparse)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @torch.no_grad()
    def delta(self) -> Tensor:
        """A copy of all deltas, fp32 (num_entries,), in the order of the index set, on the CPU."""
        return torch.cat([layer.delta().detach().cpu() for layer in self.layers.values()])

    @property
    def num_trained(self) -> int:
        return sum(parameter.numel() for layer in self.layers.values() for parameter in layer.trained().values())

    def detach(self) -> None:
        """Gives the model back as it was. Harmless when called twice."""
        for name, layer in self.layers.items():
            layer.restore_()
            _replace(self.model, name, layer.base_layer)
        self.layers = {}
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad)
        self._frozen = []


def layer_of_weight(model: nn.Module, weight_name: str, *, shape: tuple[int, ...]) -> nn.Module:
    """The layer of ``model`` whose weight bears this name. Raises ValueError naming what it found instead."""
    module_name, _, leaf = weight_name.rpartition(".")
    try:
        module = model.get_submodule(module_name)
    except AttributeError:
        module = None
    if leaf != "weight" or not isinstance(module, TRAINABLE):
        got = "nothing" if module is None else type(module).__name__
        raise ValueError(f"{weight_name}: module: expected the weight of an nn.Linear or nn.Conv2d, got {got}")
    found = tuple(module.get_parameter("weight").shape)
    if found != shape:
        raise ValueError(f"{weight_name}: shape: expected {shape}, got {found}")
    return module


def _sparse(name: str, layer: nn.Module, positions: Tensor, *, dora: bool) -> SparseLayer:
    if not isinstance(layer, nn.Conv2d):
        return (SparseDoraLinear if dora else SparseLinear)(layer, positions)
    if dora:
        raise ValueError(f"{name}: module: expected an nn.Linear for DoRA, got Conv2d")
    return SparseConv2d(layer, positions)


def _check_untied(model: nn.Module, name: str, weight: Tensor) -> None:
    """A place that reads the weight beside this layer would go without its share of the gradient."""
    others = [
        other
        for other, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight and other != name
    ]
    if others:
        raise ValueError(f"{name}: tied: expected a weight of one layer alone, got one that is {others[0]} as well")


def _replace(model: nn.Module, weight_name: str, module: nn.Module) -> None:
    model.set_submodule(weight_name.rpartition(".")[0], module)
