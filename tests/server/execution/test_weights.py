from __future__ import annotations

import pytest
import torch

from adapters_store.adapter import build_table, sha256_digest, tensor_bytes
from adapters_store.errors import BlendRejected
from server.execution.weights import BaseWeights
from tests.server.execution.world import describe, make_weights


def tied() -> BaseWeights:
    embedding = torch.randn(4, 3)
    parameters = {"embed.weight": embedding, "head.weight": embedding, "norm.weight": torch.ones(3)}
    return BaseWeights(parameters, describe(parameters))


def test_tied_names_are_one_storage() -> None:
    weights = tied()
    assert [(w.name, w.aliases) for w in weights.weights] == [("embed.weight", ("head.weight",)), ("norm.weight", ())]
    assert weights.num_bytes == (12 + 3) * 4


def test_either_tied_name_may_be_used_but_not_both() -> None:
    weights = tied()
    for name in ("embed.weight", "head.weight"):
        [tensor] = weights.resolve(build_table([(name, (4, 3), "float32", 1)]))
        assert tensor.data_ptr() == weights.weights[0].tensor.data_ptr()
    both = build_table([("embed.weight", (4, 3), "float32", 1), ("head.weight", (4, 3), "float32", 1)])
    with pytest.raises(BlendRejected, match="tied"):
        weights.resolve(both)


def test_a_weight_the_model_does_not_have_is_named() -> None:
    with pytest.raises(BlendRejected, match=r"nowhere\.weight"):
        make_weights().resolve(build_table([("nowhere.weight", (4,), "float32", 1)]))


def test_a_weight_of_another_shape_is_named_with_both_shapes() -> None:
    with pytest.raises(BlendRejected, match=r"b\.weight.*\(3, 17\).*\(17, 3\)"):
        make_weights().resolve(build_table([("b.weight", (3, 17), "float32", 1)]))


def test_every_weight_has_the_digest_of_its_bytes() -> None:
    weights = make_weights()
    for weight in weights.weights:
        assert weight.digest == sha256_digest(tensor_bytes(weight.tensor))
    assert weights.digest == make_weights().digest
    assert weights.digest != make_weights(seed=1).digest


def test_what_adapters_cannot_address_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        BaseWeights({"w": torch.ones(4, 3).T}, describe({}))
    with pytest.raises(ValueError, match="int64"):
        BaseWeights({"w": torch.ones(4, dtype=torch.int64)}, describe({}))
