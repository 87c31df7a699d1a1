from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import ShiraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapters_store.adapter import IndexSet
from adapters_store.format import Positions, pack_positions, unpack_positions
from adapters_store.tools.masks import build_mask
from adapters_store.tools.sparse_parametrisation import SparseParametrisation


def small_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 6)).to(dtype)


def linear(model: nn.Module, name: str) -> nn.Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def mask_of(model: nn.Module, sparsity: float = 0.1) -> IndexSet:
    weights = [(name, weight) for name, weight in model.state_dict().items() if name.endswith("weight")]
    return build_mask(weights, "rand", sparsity=sparsity, seed=4)


def words(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_detaching_gives_the_model_back_bit_for_bit(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    linear(model, "0").weight.data.view(-1)[:2] = torch.tensor([-0.0, 1e-30], dtype=dtype)
    linear(model, "0").bias.requires_grad_(False)
    before = words(model)
    layers = list(model)
    with SparseParametrisation(model, mask_of(model, sparsity=1.0)) as sparse:
        _fill(sparse)
        model(torch.ones(1, 12, dtype=dtype))
        assert not torch.equal(sparse.layers["0.weight"].weight, before["0.weight"])
    assert same_bits(words(model), before)
    assert list(model) == layers
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]


def test_only_the_values_train_and_they_start_at_the_base() -> None:
    model = small_model()
    inputs = torch.randn(3, 12)
    expected = model(inputs)
    with SparseParametrisation(model, mask_of(model)) as sparse:
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trainable == ["0.values", "2.values"]
        assert sum(layer.values.numel() for layer in sparse.layers.values()) == sparse.index_set.num_entries
        assert torch.equal(model(inputs), expected)


def test_the_weight_is_written_in_place_and_never_cloned() -> None:
    model = small_model()
    storage = linear(model, "0").weight.data_ptr()
    with SparseParametrisation(model, mask_of(model)) as sparse:
        layer = sparse.layers["0.weight"]
        with torch.no_grad():
            layer.values.fill_(0.5)
        model(torch.randn(1, 12))
        changed = layer.weight.detach().flatten()[layer.positions] - layer.displaced
        assert layer.weight.data_ptr() == storage
        torch.testing.assert_close(changed, torch.full_like(changed, 0.5))


def test_values_get_the_dense_gradient_at_their_positions() -> None:
    model = small_model()
    index_set = mask_of(model)
    inputs = torch.randn(5, 12)
    model(inputs).square().sum().backward()
    dense = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    with SparseParametrisation(model, index_set) as sparse:
        model(inputs).square().sum().backward()
        for entry, flat in unpack_positions(index_set):
            gradient = sparse.layers[entry.name].values.grad
            assert gradient is not None
            torch.testing.assert_close(gradient, dense[entry.name].flatten()[flat])
        assert all(layer.weight.grad is None for layer in sparse.layers.values())


def test_a_layer_whose_weight_lies_the_other_way_round_is_trained_as_well() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(20, 12), nn.Tanh(), Conv1D(6, 20))
    index_set = mask_of(model)
    inputs = torch.randn(2, 5, 12, requires_grad=True)
    model(inputs).square().sum().backward()
    dense = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert inputs.grad is not None
    inputs_gradient, inputs.grad = inputs.grad.clone(), None
    with SparseParametrisation(model, index_set) as sparse:
        model(inputs).square().sum().backward()
        torch.testing.assert_close(inputs.grad, inputs_gradient)
        for entry, flat in unpack_positions(index_set):
            gradient = sparse.layers[entry.name].values.grad
            torch.testing.assert_close(gradient, dense[entry.name].flatten()[flat])


def test_two_forwards_before_one_backward_add_their_gradients() -> None:
    model = small_model()
    inputs = torch.randn(4, 12)
    with SparseParametrisation(model, mask_of(model)) as sparse:
        values = sparse.layers["0.weight"].values
        model(inputs).sum().backward()
        assert values.grad is not None
        once = values.grad.clone()
        values.grad = None
        (model(inputs).sum() + model(inputs).sum()).backward()
        torch.testing.assert_close(values.grad, 2 * once)


def test_a_backward_through_values_that_have_changed_since_fails_rather_than_lies() -> None:
    model = small_model()
    with SparseParametrisation(model, mask_of(model)) as sparse:
        loss = model(torch.randn(4, 12)).sum()
        _fill(sparse)
        with torch.no_grad():
            model(torch.randn(4, 12))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("settings", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_the_weight_follows_every_kind_of_optimiser(settings: dict[str, Any]) -> None:
    model = small_model()
    with SparseParametrisation(model, mask_of(model)) as sparse:
        layer = sparse.layers["0.weight"]
        optimiser = torch.optim.AdamW([layer.values], lr=0.1, **settings)
        for _ in range(3):
            model(torch.ones(2, 12)).square().sum().backward()
            optimiser.step()
            model(torch.ones(2, 12))
            expected = layer.displaced + layer.values.detach()
            assert torch.equal(layer.weight.detach().flatten()[layer.positions], expected)


def test_a_weight_that_another_layer_reads_too_is_refused() -> None:
    twice = nn.Linear(6, 6)
    model = nn.Sequential(twice, nn.Tanh(), twice)
    index_set = build_mask([("0.weight", twice.weight)], "wm", sparsity=0.5)
    with pytest.raises(ValueError, match=r"0\.weight: tied: .* got one that is 2\.weight as well"):
        SparseParametrisation(model, index_set)
    assert twice.weight.requires_grad


def test_a_bf16_weight_holds_the_sum_rounded_once() -> None:
    model = small_model(torch.bfloat16)
    with SparseParametrisation(model, mask_of(model)) as sparse:
        layer = sparse.layers["0.weight"]
        values = torch.linspace(-1, 1, layer.values.numel()) * 1e-3
        with torch.no_grad():
            layer.values.copy_(values)
        layer(torch.zeros(1, 12, dtype=torch.bfloat16))
        expected = (layer.displaced.float() + values).bfloat16()
        assert torch.equal(layer.weight.detach().flatten()[layer.positions], expected)


def test_training_agrees_with_peft_on_the_same_mask() -> None:
    ours, theirs = small_model(), small_model()

    def mask_for_peft(base_layer: nn.Linear, r: int, **_: object) -> Tensor:
        rows, columns = base_layer.weight.shape
        mask = torch.zeros(rows * columns)
        generator = torch.Generator().manual_seed(rows)
        mask[torch.randperm(rows * columns, generator=generator)[: r * (rows + columns)]] = 1
        return mask.view(rows, columns)

    config = ShiraConfig(r=1, target_modules=["0", "2"])
    config.mask_fn = mask_for_peft
    peft_model = get_peft_model(theirs, config)
    peft_values = [module.shira_weight["default"] for module in peft_model.modules() if hasattr(module, "shira_weight")]
    index_set = index_set_of({name: mask_for_peft(linear(ours, name[0]), 1) for name in ("0.weight", "2.weight")})
    inputs, targets = torch.randn(16, 12), torch.randn(16, 6)
    with SparseParametrisation(ours, index_set) as sparse:
        _descend(ours, inputs, targets)
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            _descend(peft_model, inputs, targets)
        torch.testing.assert_close(sparse.delta(), torch.cat([values.detach() for values in peft_values]))
        assert sparse.delta().abs().min() > 0


def test_dora_starts_at_the_base_and_its_delta_is_magnitude_times_direction_under_the_mask() -> None:
    model = small_model()
    index_set = mask_of(model)
    base = words(model)
    inputs = torch.randn(3, 12)
    expected = model(inputs)
    with SparseParametrisation(model, index_set, dora=True) as sparse:
        torch.testing.assert_close(model(inputs), expected)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained == ["0.values", "0.magnitude", "2.values", "2.magnitude"]
        assert sparse.num_trained == index_set.num_entries + 20 + 6
        _fill(sparse)
        with torch.no_grad():
            for layer in sparse.layers.values():
                layer.get_parameter("magnitude").mul_(1.5)
        model(inputs)
        for entry, flat in unpack_positions(index_set):
            layer = sparse.layers[entry.name]
            delta = torch.zeros(entry.numel).index_copy(0, flat, layer.values.detach()).view(entry.shape)
            direction = base[entry.name] + delta
            whole = direction / direction.norm(dim=1, keepdim=True) * layer.get_parameter("magnitude").detach()[:, None]
            masked = base[entry.name].flatten().index_copy(0, flat, whole.flatten()[flat]).view(entry.shape)
            torch.testing.assert_close(layer.weight.detach(), masked)
            torch.testing.assert_close(layer.delta().detach(), (masked - base[entry.name]).flatten()[flat])
    assert same_bits(words(model), base)


def test_the_gradients_of_dora_are_those_of_its_definition_with_the_norm_held_fixed() -> None:
    model = small_model()
    index_set = mask_of(model)
    base = words(model)
    inputs = torch.randn(3, 12)
    with SparseParametrisation(model, index_set, dora=True) as sparse:
        _fill(sparse)
        model(inputs).square().sum().backward()
        (entry, flat), *_ = unpack_positions(index_set)
        ours = sparse.layers[entry.name]
        values, magnitude = (ours.get_parameter(name).detach().requires_grad_() for name in ("values", "magnitude"))
        delta = torch.zeros(entry.numel).index_copy(0, flat, values).view(entry.shape)
        direction = base[entry.name] + delta
        whole = direction / direction.norm(dim=1, keepdim=True).detach() * magnitude[:, None]
        weight = base[entry.name].flatten().index_copy(0, flat, whole.flatten()[flat]).view(entry.shape)
        hidden = torch.nn.functional.linear(inputs, weight, linear_bias(base, entry.name))
        rest = [layer for layer in model if layer is not ours]
        rest[1](rest[0](hidden)).square().sum().backward()
        torch.testing.assert_close(ours.get_parameter("values").grad, values.grad)
        torch.testing.assert_close(ours.get_parameter("magnitude").grad, magnitude.grad)


@pytest.mark.parametrize("name", ["1.weight", "7.weight", "0.bias"])
def test_what_is_not_the_weight_of_a_linear_layer_is_refused_and_the_model_left_alone(name: str) -> None:
    model = small_model()
    layers = list(model)
    with pytest.raises(ValueError, match=name):
        SparseParametrisation(
            model, build_mask([("0.weight", linear(model, "0").weight), (name, torch.ones(2, 2))], "wm", sparsity=0.5)
        )
    assert list(model) == layers
    assert all(parameter.requires_grad for parameter in model.parameters())


def linear_bias(base: dict[str, Tensor], weight_name: str) -> Tensor:
    return base[weight_name.replace("weight", "bias")]


def index_set_of(masks: dict[str, Tensor]) -> IndexSet:
    rows = [
        Positions(name=name, shape=tuple(mask.shape), dtype="float32", flat=mask.flatten().nonzero().flatten())
        for name, mask in sorted(masks.items())
    ]
    return pack_positions(rows)


def _fill(sparse: SparseParametrisation) -> None:
    with torch.no_grad():
        for layer in sparse.layers.values():
            layer.values.normal_()


def _descend(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
