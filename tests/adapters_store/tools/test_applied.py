from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from adapters_store.adapter import Adapter
from adapters_store.blend import Fusion
from adapters_store.errors import BlendRejected
from adapters_store.format import unpack_positions
from adapters_store.fusion import fuse
from adapters_store.kernels import get_kernels
from adapters_store.tools.applied import applied
from tests.adapters_store.adapter_files import SHAPES, make_adapter, same_bits

A = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [1.0, 2.0, 3.0])
B = make_adapter({"a.weight": [1, 7], "b.weight": [69]}, [-0.3, 5.0, 6.0])
SAME_SET = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [0.1, -2.0, 0.7])
Members = Sequence[tuple[Adapter, float]]


class Weight(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor)


class Odd(Exception):
    pass


def make_model(dtype: torch.dtype = torch.bfloat16) -> nn.ModuleDict:
    """Weights of any bit pattern that is easily lost: −0, denormals, NaN with a payload."""
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in SHAPES.items()}
    tensors["a.weight"].view(-1)[1] = -0.0
    tensors["a.weight"].view(-1)[7] = torch.finfo(dtype).smallest_normal / 2
    tensors["b.weight"].view(torch.int16 if dtype.itemsize == 2 else torch.int32)[0] = -3
    return nn.ModuleDict({name.removesuffix(".weight"): Weight(tensor) for name, tensor in tensors.items()})


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def holds(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    return all(same_bits(tensor.detach(), tensors[name]) for name, tensor in model.named_parameters())


def dense_reference(base: dict[str, Tensor], members: Members, fusion: Fusion) -> dict[str, Tensor]:
    """One weight at a time: round(fp32(W0) + Σ) at the touched positions, W0 elsewhere."""
    ordered = sorted(members, key=lambda member: member[0].version)
    delta = fuse(ordered, fusion, get_kernels("cpu", "reference"))
    words = {name: tensor.clone() for name, tensor in base.items()}
    starts = delta.index_set.entry_starts
    for (entry, flat), start in zip(unpack_positions(delta.index_set), starts, strict=False):
        weight = words[entry.name].view(-1)
        weight[flat] = (weight[flat].float() + delta.delta[start : start + entry.count]).to(weight.dtype)
    return words


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("members", "fusion"),
    [
        ([(A, 1.0)], Fusion()),
        ([(A, 0.0)], Fusion()),
        ([(A, 0.7), (B, -0.3)], Fusion()),
        ([(B, -0.3), (A, 0.7)], Fusion(method="ram")),
        ([(A, 0.5), (SAME_SET, 0.25)], Fusion(method="mean")),
        ([(A, 1.0), (B, 1.0), (SAME_SET, 0.5)], Fusion(method="ties", density=0.5)),
    ],
)
def test_inside_are_the_words_of_the_definition_and_outside_the_base_bit_for_bit(
    dtype: torch.dtype, members: Members, fusion: Fusion
) -> None:
    model = make_model(dtype)
    base = copy_of(model)
    with applied(model, members, fusion):
        assert holds(model, dense_reference(base, members, fusion))
    assert holds(model, base)


def test_no_members_are_the_base() -> None:
    model = make_model()
    base = copy_of(model)
    with applied(model, []):
        assert holds(model, base)


def test_an_exception_inside_brings_the_base_back() -> None:
    model = make_model()
    base = copy_of(model)
    with suppress(Odd), applied(model, [(A, 1.0)]):
        assert not holds(model, base)
        raise Odd
    assert holds(model, base)


def test_a_tied_weight_is_written_once_and_seen_under_both_names() -> None:
    model = make_model()
    a = model.pop("a")
    model["first"] = Weight(torch.zeros(1))
    model["first"].weight = a.weight
    model["a"] = a
    base = copy_of(model)
    assert set(base) == {"first.weight", "b.weight", "c.weight"}
    with applied(model, [(A, 1.0)]):
        after = model.get_parameter("first.weight").detach().view(-1)
        assert same_bits(after[65_536:65_537], base["first.weight"].view(-1)[65_536:65_537] + 2)
    assert holds(model, base)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_weight_that_the_model_lacks_is_named(name: str) -> None:
    model = make_model()
    del model[name]
    base = copy_of(model)
    with (
        pytest.raises(BlendRejected, match=rf"{name}\.weight: the loaded model has no weight"),
        applied(model, [(A, 1.0), (B, 1.0)]),
    ):
        pass
    assert holds(model, base)


def test_a_weight_of_another_shape_is_named() -> None:
    model = make_model()
    model["c"] = Weight(torch.zeros(32, 64))
    with (
        pytest.raises(BlendRejected, match=r"c\.weight: the adapter expects shape \(64, 32\)"),
        applied(model, [(A, 1.0)]),
    ):
        pass


def test_two_names_of_one_tied_weight_are_refused() -> None:
    storage = torch.zeros(SHAPES["a.weight"])
    model = nn.ModuleDict({"a": Weight(storage), "c": Weight(storage.view(-1)[: 64 * 32].view(64, 32))})
    with pytest.raises(BlendRejected, match="are tied to one weight"), applied(model, [(A, 1.0)]):
        pass


def test_words_outside_the_dtypes_range_are_refused_and_nothing_is_written() -> None:
    model = make_model(torch.float16)
    base = copy_of(model)
    huge = make_adapter({"a.weight": [3, 4]}, [1.0, 1e5])
    with (
        pytest.raises(BlendRejected, match="1 of 2 weights would leave the range of float16"),
        applied(model, [(huge, 1.0)]),
    ):
        pass
    assert holds(model, base)


def test_one_adapter_twice_is_refused() -> None:
    with pytest.raises(BlendRejected, match="appears twice"), applied(make_model(), [(A, 1.0), (A, 0.5)]):
        pass
