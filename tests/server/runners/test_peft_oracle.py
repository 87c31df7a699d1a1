"""PEFT's merged model is the oracle: the same SHiRA checkpoint, fused here, gives the same greedy tokens in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.peft_format import read_peft
from loadtest.tiny_model import TEXT, Architecture, save_tiny_model
from server.runners.loading import LoadedModel, load_llm
from server.runners.text import TextCodec
from tests.e2e.real_adapters import default_base
from tests.server.runners.rig import BackendName, Rig

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


def rig_with(loaded: LoadedModel, backend: BackendName, adapter: Path) -> tuple[Rig, Blend]:
    parsed = read_peft(
        adapter / "adapter_config.json", adapter / "adapter_model.safetensors", base=loaded.weights.description
    )
    rig = Rig(loaded, backend, kv_budget_bytes=1 << 26)
    rig.shelf.add(parsed.adapter)
    return rig, Blend(members=(BlendMember(version=parsed.adapter.version, scale=1.0),))


def answers(rig: Rig, blend: Blend, active: Blend) -> list[list[int]]:
    """All prompts in one batch."""
    names = [f"{blend.key} over {active.key}: {number}" for number in range(len(PROMPTS))]
    for name, prompt in zip(names, PROMPTS, strict=True):
        rig.begin(name, prompt, blend)
    rig.run(names, steps=NUM_TOKENS, active=active)
    return [rig.answer(name) for name in names]


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


@pytest.mark.parametrize(("architecture", "backend"), [("llama", "paged"), ("llama", "rows"), ("gpt-neox", "rows")])
def test_greedy_tokens_are_those_of_pefts_merged_model(
    tmp_path: Path, architecture: Architecture, backend: BackendName
) -> None:
    base = save_tiny_model(tmp_path / "base", architecture)
    check_against_peft(base, backend, tmp_path / "adapter", TARGETS[architecture])


@pytest.mark.slow
def test_greedy_tokens_over_the_real_base_are_those_of_pefts_merged_model(tmp_path: Path) -> None:
    base, _ = default_base()
    check_against_peft(base, "paged", tmp_path / "adapter", TARGETS["llama"])


def check_against_peft(base: Path, backend: BackendName, adapter: Path, targets: list[str]) -> None:
    """Fused into the weights, and mixed beside the base."""
    loaded = load_llm(base, dtype="float32", device="cpu")
    merged = merged_by_peft(base, adapter, targets)
    rig, blend = rig_with(loaded, backend, adapter)
    before = answers(rig, BASE, BASE)
    rig.execution.activate(blend)
    mine = dict(loaded.model.named_parameters())
    assert all(torch.equal(parameter, mine[name]) for name, parameter in merged.named_parameters())
    expected = generated(merged, loaded)
    assert answers(rig, blend, blend) == expected
    rig.execution.restore()
    assert answers(rig, blend, BASE) == expected
    assert expected != before
