"""Random causal LMs of a few thousand weights, with a real byte-level tokenizer, saved as checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config

Architecture = Literal["llama", "qwen2", "mistral-sliding", "gemma3", "gpt-neox"]
TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "in the beginning was the word",
    "a rose is a rose 🌹 naïve café",
]
END = "<|end|>"
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def save_tiny_model(
    path: Path, architecture: Architecture = "llama", *, tied: bool = False, dtype: torch.dtype = torch.float32
) -> Path:
    """Weights are drawn wide, so that greedy answers wander."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(len(architecture))
    common = SIZES | {"vocab_size": len(tokenizer), "tie_word_embeddings": tied, "initializer_range": 0.3}
    config: Any
    match architecture:
        case "llama":
            config = LlamaConfig(**common, num_key_value_heads=2)
        case "qwen2":
            config = Qwen2Config(**common, num_key_value_heads=2)
        case "mistral-sliding":
            config = MistralConfig(**common, num_key_value_heads=2, sliding_window=8)
        case "gemma3":  # windows in all but the last layer
            layer_types = ["sliding_attention", "full_attention"]
            config = Gemma3TextConfig(
                **common, num_key_value_heads=2, head_dim=8, sliding_window=8, layer_types=layer_types
            )
        case "gpt-neox":
            config = GPTNeoXConfig(**common)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_tokenizer() -> Any:
    """Byte-level BPE as in SmolLM2 and Llama 3; most characters beyond ASCII take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
