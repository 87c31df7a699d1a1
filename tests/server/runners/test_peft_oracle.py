"""PEFT's merged model is the oracle: the same SHiRA checkpoint, fused here, gives the same greedy tokens in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from adapters_store.blend import Blend, BlendMember
from adapters_store.kernels import get_kernels
from adapters_store.peft_format import read_peft
from server.core.metrics import Metrics
from server.core.requests import RequestId, Sampling
from server.core.steps import NewSequence
from server.execution.fused import FusedExecution
from server.runners.llm import LlmRunner
from server.runners.loading import LoadedModel, load_llm
from server.runners.text import TextCodec
from tests.e2e.real_adapters import default_base
from tests.server.execution.world import Shelf
from tests.server.runners.tiny_model import TEXT, Architecture, save_tiny_model

# PEFT asks transformers for a name that is about to go, and makes sparse tensors without choosing their checks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

NUM_TOKENS = 12
WORDS = " ".join(TEXT).split()
PROMPTS = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(20)]
TARGETS: dict[str, list[str]] = {
    "llama": ["q_proj", "v_proj", "up_proj", "down_proj"],
    "gpt-neox": ["query_key_value", "dense_h_to_4h"],
}


def merged_by_peft(base: Path, adapter: Path, targets: list[str]) -> Any:
    """Saves a checkpoint of random deltas, then the model that PEFT merges it into."""
    torch.manual_seed(5)
    config = peft.ShiraConfig(r=2, target_modules=targets, init_weights=False)
    tuned = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    tuned.save_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()


def fused_here(loaded: LoadedModel, adapter: Path) -> FusedExecution:
    parsed = read_peft(
        adapter / "adapter_config.json", adapter / "adapter_model.safetensors", base=loaded.weights.description
    )
    shelf = Shelf()
    shelf.add(parsed.adapter)
    execution = FusedExecution(
        loaded.weights, get_kernels("cpu"), shelf, device_budget_bytes=1 << 28, metrics=Metrics()
    )
    execution.activate(Blend(members=(BlendMember(version=parsed.adapter.version, scale=1.0),)))
    return execution


def answers(loaded: LoadedModel, blend: Blend) -> list[list[int]]:
    """All prompts in one batch."""
    runner = LlmRunner(loaded, TextCodec(loaded.tokenizer), kv_budget_bytes=1 << 26)
    codec = TextCodec(loaded.tokenizer)
    sequences = [
        NewSequence(
            id=RequestId(str(i)),
            prompt_tokens=codec.encode(prompt),
            sampling=Sampling(),
            max_new_tokens=NUM_TOKENS,
        )
        for i, prompt in enumerate(PROMPTS)
    ]
    found: dict[RequestId, list[int]] = {}
    steps = [runner.prefill(blend.key, sequences)]
    steps += [runner.decode(blend.key, [new.id for new in sequences]) for _ in range(NUM_TOKENS - 1)]
    for step in steps:
        for token in step:
            found.setdefault(token.id, []).append(token.token)
    return [found[new.id] for new in sequences]


def generated(model: Any, loaded: LoadedModel) -> list[list[int]]:
    codec = TextCodec(loaded.tokenizer)
    found = []
    for prompt in PROMPTS:
        tokens = torch.tensor([codec.encode(prompt)])
        output = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found.append(output[0, tokens.shape[1] :].tolist())
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt-neox"])
def test_greedy_tokens_are_those_of_pefts_merged_model(tmp_path: Path, architecture: Architecture) -> None:
    check_against_peft(save_tiny_model(tmp_path / "base", architecture), tmp_path / "adapter", TARGETS[architecture])


@pytest.mark.slow
def test_greedy_tokens_over_the_real_base_are_those_of_pefts_merged_model(tmp_path: Path) -> None:
    base, _ = default_base()
    check_against_peft(base, tmp_path / "adapter", TARGETS["llama"])


def check_against_peft(base: Path, adapter: Path, targets: list[str]) -> None:
    loaded = load_llm(base, dtype="float32", device="cpu")
    before = answers(loaded, Blend())
    merged = merged_by_peft(base, adapter, targets)
    execution = fused_here(loaded, adapter)
    mine = dict(loaded.model.named_parameters())
    assert all(torch.equal(parameter, mine[name]) for name, parameter in merged.named_parameters())
    after = answers(loaded, execution.active)
    assert after == generated(merged, loaded)
    assert after != before
    execution.restore()
    assert answers(loaded, Blend()) == before
