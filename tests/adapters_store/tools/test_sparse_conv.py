from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapters_store.adapter import IndexSet
from adapters_store.format import unpack_positions
from adapters_store.tools.masks import build_mask
from adapters_store.tools.sparse_parametrisation import SparseParametrisation

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "stride": 2},
    "grouped": {"kernel_size": 3, "groups": 2, "bias": False},
    "reflecting": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


def small_model(kind: str = "plain", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, **KINDS[kind]), nn.Tanh(), nn.Conv2d(6, 2, 3)).to(dtype)


def mask_of(model: nn.Module) -> IndexSet:
    weights = [(name, weight) for name, weight in model.state_dict().items() if name.endswith("weight")]
    return build_mask(weights, "rand", sparsity=0.2, seed=4)


def pictures(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_get_the_dense_gradient_at_their_positions_and_inputs_all_of_theirs(
    kind: str, dtype: torch.dtype
) -> None:
    model, inputs = small_model(kind, dtype), pictures(dtype)
    index_set = mask_of(model)
    expected = model(inputs)
    expected.float().square().sum().backward()
    dense = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    of_inputs, inputs.grad = inputs.grad, None
    with SparseParametrisation(model, index_set) as sparse:
        output = model(inputs)
        assert torch.equal(output, expected)
        output.float().square().sum().backward()
        assert torch.equal(inputs.grad, of_inputs)  # type: ignore[arg-type]
        for entry, flat in unpack_positions(index_set):
            gradient = sparse.layers[entry.name].values.grad
            assert gradient is not None
            assert torch.equal(gradient, dense[entry.name].flatten()[flat].float())


def test_the_model_computes_with_the_base_and_the_delta_and_is_given_back_bit_for_bit() -> None:
    model, inputs = small_model(), pictures()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    index_set = mask_of(model)
    layers = list(model)
    with SparseParametrisation(model, index_set) as sparse:
        with torch.no_grad():
            for layer in sparse.layers.values():
                layer.values.normal_()
        output = model(inputs)
        changed = dict(base)
        for entry, flat in unpack_positions(index_set):
            delta = torch.zeros(entry.numel).index_copy(0, flat, sparse.layers[entry.name].values.detach())
            changed[entry.name] = base[entry.name] + delta.view(entry.shape)
    assert list(model) == layers
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict(changed)
    assert torch.equal(model(inputs), output)


def test_a_backward_through_values_that_have_changed_since_fails_rather_than_lies() -> None:
    model = small_model()
    with SparseParametrisation(model, mask_of(model)) as sparse:
        loss = model(pictures()).sum()
        with torch.no_grad():
            for layer in sparse.layers.values():
                layer.values.normal_()
            model(pictures())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_dora_of_a_convolution_is_refused_and_the_model_left_alone() -> None:
    model = small_model()
    layers = list(model)
    with pytest.raises(ValueError, match=r"0\.weight: module: expected an nn\.Linear for DoRA, got Conv2d"):
        SparseParametrisation(model, mask_of(model), dora=True)
    assert list(model) == layers
    assert all(parameter.requires_grad for parameter in model.parameters())
