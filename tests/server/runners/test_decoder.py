from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.gemma import GemmaConfig, GemmaForCausalLM
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.mistral import MistralConfig, MistralForCausalLM

from adapters_store.kernels import RowGroup, RowPlan, get_row_kernels
from server.runners.decoder import can_decode, obstacle
from server.runners.ops import Ops, Segment, available_ops, get_ops
from tests.server.runners.decoders import KINDS, SIZES, VOCABULARY, Decoding, Kind, tiny_decoder_model

NEW_TOKENS = 40
NAMES = available_ops("cpu", torch.float32, 16)


def prompt(seed: int, length: int) -> list[int]:
    return torch.randint(1, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [prompt(1, 23), prompt(2, 5), prompt(3, 48), prompt(4, 1), prompt(5, 16)]


@pytest.fixture(params=NAMES)
def ops(request: pytest.FixtureRequest) -> Ops:
    return get_ops("cpu", torch.float32, 16, request.param)


@torch.inference_mode()
def by_transformers(model: Any, tokens: list[int], num_new: int = NEW_TOKENS) -> list[int]:
    all_tokens = list(tokens)
    for _ in range(num_new):
        logits = model(input_ids=torch.tensor([all_tokens]), use_cache=False).logits[0, -1]
        all_tokens.append(int(logits.argmax()))
    return all_tokens[len(tokens) :]


def by_decoder(decoding: Decoding, prompts: list[list[int]], *, chunk: int = 10_000) -> list[list[int]]:
    """Greedy answers to all prompts at once; prompts run ``chunk`` tokens at a time beside those that decode."""
    sequences = [decoding.begin() for _ in prompts]
    all_tokens = [list(tokens) for tokens in prompts]
    while work := [
        (number, all_tokens[number][sequence.num_tokens :][:chunk])
        for number, sequence in enumerate(sequences)
        if len(all_tokens[number]) < len(prompts[number]) + NEW_TOKENS
    ]:
        logits = decoding.step([(sequences[number], tokens) for number, tokens in work])
        for (number, _), row in zip(work, logits, strict=True):
            if sequences[number].num_tokens == len(all_tokens[number]):
                all_tokens[number].append(int(row.argmax()))
    return [tokens[len(given) :] for tokens, given in zip(all_tokens, prompts, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_answers_are_those_of_transformers(kind: Kind, ops: Ops) -> None:
    model = tiny_decoder_model(kind)
    assert can_decode(model)
    expected = [by_transformers(model, tokens) for tokens in PROMPTS]
    assert by_decoder(Decoding(model, ops=ops), PROMPTS, chunk=7) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_within_rounding(kind: Kind, ops: Ops) -> None:
    model = tiny_decoder_model(kind)
    decoding = Decoding(model, ops=ops)
    logits = decoding.step([(decoding.begin(), PROMPTS[2])])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([PROMPTS[2]])).logits[:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", available_ops("cpu", torch.bfloat16, 16))
def test_bfloat16_logits_are_as_far_from_exact_ones_as_transformers_own(kind: Kind, name: str) -> None:
    """The measure is the same model in float32: rounding fewer intermediate results must not be worse."""
    model = tiny_decoder_model(kind, torch.bfloat16)
    decoding = Decoding(model, ops=get_ops("cpu", torch.bfloat16, 16, name))
    tokens = prompt(6, 120)
    logits = decoding.step([(decoding.begin(), tokens)], samples_all=True)
    with torch.inference_mode():
        rounded = model(input_ids=torch.tensor([tokens])).logits[0].float()
        exact = model.float()(input_ids=torch.tensor([tokens])).logits[0]
    error = (logits - exact).square().mean().sqrt()
    assert error <= 1.25 * (rounded - exact).square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["smollm", "qwen3", "llama-biased"])
def test_a_row_gets_the_same_bits_alone_in_a_batch_and_in_chunks(kind: Kind, dtype: torch.dtype) -> None:
    if not get_row_kernels("cpu").has_native_linear(dtype) or len(available_ops("cpu", dtype, 16)) == 1:
        pytest.skip("torch's products depend on the batch")
    decoding = Decoding(tiny_decoder_model(kind, dtype))
    together = decoding.step([(decoding.begin(), tokens) for tokens in PROMPTS])
    for tokens, expected in zip(PROMPTS, together, strict=True):
        alone, parted = decoding.begin(), decoding.begin()
        assert torch.equal(decoding.step([(alone, tokens)])[0], expected)
        for start in range(0, len(tokens), 7):
            logits = decoding.step([(parted, tokens[start : start + 7]), (decoding.begin(), [start + 1])])
        assert torch.equal(logits[0], expected)


def test_what_is_written_into_the_weights_is_in_the_next_step() -> None:
    model = tiny_decoder_model("llama")
    decoding = Decoding(model)
    before = decoding.step([(decoding.begin(), PROMPTS[0])])
    model.model.layers[1].mlp.down_proj.weight[3, 5] += 10
    after = decoding.step([(decoding.begin(), PROMPTS[0])])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([PROMPTS[0]])).logits[:, -1]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_a_step_that_samples_nothing_stores_its_tokens_all_the_same() -> None:
    decoding = Decoding(tiny_decoder_model("llama"))
    whole, parted = decoding.begin(), decoding.begin()
    expected = decoding.step([(whole, PROMPTS[0])])
    decoding.pages.table.reserve(parted, 23)
    segment = Segment(num_tokens=20, position=0, pages=parted.pages)
    plan = RowPlan([RowGroup(start=0, stop=20)])
    nothing = decoding.decoder.forward(
        torch.tensor(PROMPTS[0][:20]), [segment], plan, torch.tensor([], dtype=torch.int64)
    )
    assert nothing.shape == (0, VOCABULARY)
    decoding.pages.table.fill(parted, PROMPTS[0][:20], "fused")
    torch.testing.assert_close(decoding.step([(parted, PROMPTS[0][20:])]), expected)


def test_rows_beyond_their_pages_or_the_last_position_are_refused() -> None:
    decoding = Decoding(tiny_decoder_model("llama"))
    sequence = decoding.begin()
    decoding.pages.table.reserve(sequence, 16)
    plan = RowPlan([RowGroup(start=0, stop=2)])
    tokens, rows = torch.tensor([1, 2]), torch.tensor([1])
    with pytest.raises(ValueError, match=r"segments\[0\]: expected tokens in positions 0 to 16, got 2 from 15 on"):
        decoding.decoder.forward(tokens, [Segment(num_tokens=2, position=15, pages=sequence.pages)], plan, rows)
    with pytest.raises(ValueError, match="segments: expected 2 rows, at least one, got 1"):
        decoding.decoder.forward(tokens, [Segment(num_tokens=1, position=0, pages=sequence.pages)], plan, rows)


def test_models_that_compute_something_else_are_refused_with_the_reason() -> None:
    sliding = MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8))
    assert obstacle(sliding) == "its attention slides over 8 tokens"
    gelu = LlamaForCausalLM(LlamaConfig(**SIZES, hidden_act="gelu"))
    assert obstacle(gelu) == "its activation is gelu"
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    dynamic = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope))
    assert obstacle(dynamic) == "its rotary positions are of type dynamic"
    gemma = GemmaForCausalLM(GemmaConfig(**SIZES, num_key_value_heads=2))
    assert "GemmaForCausalLM is none of" in str(obstacle(gemma))
    replaced = tiny_decoder_model("llama")
    replaced.model.layers[0].mlp.up_proj = torch.nn.Sequential(replaced.model.layers[0].mlp.up_proj)
    assert obstacle(replaced) == "model.layers.0.mlp.up_proj is not a plain linear layer"
    mixed = tiny_decoder_model("llama")
    mixed.lm_head.double()
    assert obstacle(mixed) == "its weights are not of one float dtype on one device"
