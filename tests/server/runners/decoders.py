"""Tiny random decoders of every kind that the fast forward takes, and its products without any adapters."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from adapters_store.blend import BlendKey
from adapters_store.kernels import RowGroup, RowPlan, get_row_kernels
from server.runners.decoder import LlamaDecoder, kv_shape
from server.runners.ops import Ops, Segment, get_ops
from server.runners.page_table import PagedSequence
from server.runners.pages import Pages

Kind = Literal[
    "llama", "llama-biased", "llama3-rope", "yarn-rope", "smollm", "mistral", "mistral-wide-heads", "qwen2", "qwen3"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide, so that greedy answers wander
    "bos_token_id": None,
    "eos_token_id": 0,
}
SCALED: dict[str, Any] = {"factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}


def tiny_decoder_model(kind: Kind, dtype: torch.dtype = torch.float32) -> Any:
    """Norm weights and biases are random too: a forward that forgets them is found out."""
    config: Any
    match kind:
        case "llama":
            config = LlamaConfig(**SIZES, num_key_value_heads=4)
        case "llama-biased":
            config = LlamaConfig(**SIZES, num_key_value_heads=2, attention_bias=True, mlp_bias=True)
        case "llama3-rope":
            rope = SCALED | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            config = LlamaConfig(**SIZES, num_key_value_heads=1, rope_parameters=rope)
        case "yarn-rope":
            config = LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=SCALED | {"rope_type": "yarn"})
        case "smollm":
            sizes = SIZES | {"hidden_size": 72, "num_attention_heads": 9, "tie_word_embeddings": True}
            config = LlamaConfig(**sizes, num_key_value_heads=3)
        case "mistral":
            config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None)
        case "mistral-wide-heads":
            config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=512, head_dim=48)
        case "qwen2":
            config = Qwen2Config(**SIZES, num_key_value_heads=2)
        case "qwen3":
            config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=32)
    torch.manual_seed(len(kind))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


class Decoding:
    """Sequences that run through the decoder, and what they were given."""

    def __init__(self, model: Any, *, ops: Ops | None = None, num_pages: int = 64) -> None:
        shape = kv_shape(model)
        device = model.model.embed_tokens.weight.device
        self.pages = Pages(shape, device=device, budget_bytes=num_pages * shape.page_bytes)
        ops = ops or get_ops(device, shape.dtype, shape.head_dim)
        self.decoder = LlamaDecoder(model, get_row_kernels(device), ops, self.pages)

    def begin(self) -> PagedSequence:
        return self.pages.table.begin("default", BlendKey("0" * 64), [])

    def step(self, work: list[tuple[PagedSequence, list[int]]], *, samples_all: bool = False) -> torch.Tensor:
        """Runs the tokens of each sequence; the logits of the last one of each, or of all."""
        for sequence, tokens in work:
            self.pages.table.reserve(sequence, len(tokens))
        segments = [
            Segment(num_tokens=len(tokens), position=sequence.num_tokens, pages=sequence.pages)
            for sequence, tokens in work
        ]
        flat = torch.tensor([token for _, tokens in work for token in tokens])
        last = torch.tensor([len(tokens) for _, tokens in work]).cumsum(0) - 1
        plan = RowPlan([RowGroup(start=0, stop=len(flat))])
        logits = self.decoder.forward(flat, segments, plan, torch.arange(len(flat)) if samples_all else last)
        for sequence, tokens in work:
            self.pages.table.fill(sequence, tokens, "fused")
        return logits
