from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from adapters_store.adapter import Digest
from adapters_store.tools.calibrate import accumulated_gradients
from adapters_store.tools.data import Examples

NAMES = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, attention_dropout=0.5,
        )
    )  # fmt: skip


@pytest.fixture
def examples() -> Examples:
    tokens = torch.randint(0, 11, (10, 6), generator=torch.Generator().manual_seed(1))
    return Examples(tokens, tokens, Digest("sha256:none"))


def dense_gradients(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    model.eval()
    for batch in batches:
        model(input_ids=batch, labels=batch).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def test_they_are_summed_with_their_sign_over_a_sample_spread_over_the_data(
    model: LlamaForCausalLM, examples: Examples
) -> None:
    found = accumulated_gradients(model, NAMES, examples.spread(5), batch_size=2)
    rows = examples.input_ids[[0, 2, 4, 6, 8]]
    expected = dense_gradients(model, [rows[:2], rows[2:4], rows[4:]])
    assert list(found) == NAMES
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name])


def test_the_model_is_left_as_it_was(model: LlamaForCausalLM, examples: Examples) -> None:
    model.train()
    model.lm_head.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    accumulated_gradients(model, NAMES, examples.spread(100), batch_size=4)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
