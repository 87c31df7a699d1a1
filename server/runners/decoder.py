"""The forward of Llama-family decoders (Llama, SmolLM, Mistral, Qwen 2 and 3) over a transformers model's own weights.

Written for one step over ragged rows: prompt chunks and single tokens of many sequences, one behind the other, each
under its own blend. Nothing is copied or packed, so that an adapter exchanged into the weights is in the next step.
Where the products and operations are native ones, the logits of a row are the same bit for bit alone and in any batch;
those of a row that runs with what is in the weights also however its prompt was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from adapters_store.kernels import Linears, RowGroup, RowKernels, RowPlan
from server.runners.ops import HeadNorms, Norm, Ops, Ragged, RopeTable, Segment
from server.runners.page_table import PAGE_TOKENS
from server.runners.pages import KvShape, Pages

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others change with the length of the sequence
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class LlamaDecoder:
    """``model`` must be one that ``can_decode``; ``pages`` are for ``kv_shape(model)``. Engine thread only."""

    def __init__(self, model: Any, kernels: RowKernels, ops: Ops, pages: Pages) -> None:
        self._kernels = kernels
        self._ops = ops
        self._pages = pages
        inner = model.model
        self._embedding: Tensor = inner.embed_tokens.weight
        self._head = _linears(model.lm_head)
        self._norm = _norm(inner.norm)
        self._layers = [_layer(layer) for layer in inner.layers]
        self._rope = _rope_table(inner.rotary_emb, min(model.config.max_position_embeddings, pages.num_tokens))

    @torch.inference_mode()
    def forward(self, tokens: Tensor, segments: Sequence[Segment], plan: RowPlan, sampled: Tensor) -> Tensor:
        """Runs ``tokens`` int64 (rows,), which are the ``segments`` in order, and stores their KV.

        Returns float32 (sampled rows, vocabulary): the logits of the rows ``sampled`` int64. Raises ValueError if the
        segments do not make up the rows or a segment goes beyond its pages or the last position of the model."""
        self._check(tokens, segments)
        linear, ops = self._kernels.linear, self._ops
        ragged = Ragged(segments, tokens.device)
        x = embedding(tokens, self._embedding)  # (rows, hidden)
        update = torch.zeros_like(x)  # what the block before adds to x; then the norm of that, the next one's input
        for layer, pages in zip(self._layers, self._pages.layers, strict=True):
            ops.add_norm_(x, update, layer.attention_norm)
            q, k, v = linear(update, layer.qkv, plan)
            ops.rope_and_store_(q, k, v, norms=layer.head_norms, rope=self._rope, ragged=ragged, pages=pages)
            ops.attend_(q, scale=layer.scale, ragged=ragged, pages=pages)
            (update,) = linear(q, layer.output, plan)
            ops.add_norm_(x, update, layer.mlp_norm)
            gate, up = linear(update, layer.gate_up, plan)
            ops.gate_(gate, up)
            (update,) = linear(gate, layer.down, plan)
        if not len(sampled):
            return x.new_empty(0, self._head.out_features[0], dtype=torch.float32)
        last = update[sampled]
        ops.add_norm_(x[sampled], last, self._norm)
        plain = RowPlan([RowGroup(start=0, stop=len(sampled))])  # adapters on the head only run fused
        (logits,) = linear(last, self._head, plain, out_dtype=torch.float32)
        return logits

    def _check(self, tokens: Tensor, segments: Sequence[Segment]) -> None:
        if (num_rows := sum(segment.num_tokens for segment in segments)) != len(tokens) or num_rows == 0:
            raise ValueError(f"segments: expected {len(tokens)} rows, at least one, got {num_rows}")
        for number, segment in enumerate(segments):
            end = segment.position + segment.num_tokens
            most = min(len(segment.pages) * PAGE_TOKENS, self._rope.num_positions)
            if segment.num_tokens < 1 or segment.position < 0 or end > most:
                got = f"{segment.num_tokens} from {segment.position} on"
                raise ValueError(f"segments[{number}]: expected tokens in positions 0 to {most}, got {got}")


def can_decode(model: Any) -> bool:
    return obstacle(model) is None


def obstacle(model: Any) -> str | None:
    """Why ``LlamaDecoder`` would not compute what the model does; None if it would."""
    config = model.config
    if type(model).__name__ not in ARCHITECTURES or not type(model).__module__.startswith("transformers.models."):
        return f"{type(model).__name__} is none of {', '.join(ARCHITECTURES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        return f"its attention slides over {window} tokens"
    if model.model.rotary_emb.rope_type not in ROPE_TYPES:
        return f"its rotary positions are of type {model.model.rotary_emb.rope_type}"
    if 2 * model.model.rotary_emb.inv_freq.numel() != model.model.layers[0].self_attn.head_dim:
        return "its rotary positions turn a part of each head"
    replaced = [name for name, module in model.named_modules() if _is_unlike_linear(name, module)]
    if replaced:
        return f"{replaced[0]} is not a plain linear layer"
    parameters = list(model.parameters())
    dtype, device = parameters[0].dtype, parameters[0].device
    if dtype not in DTYPES or any((p.dtype, p.device) != (dtype, device) for p in parameters):
        return "its weights are not of one float dtype on one device"
    if any(not parameter.is_contiguous() for parameter in parameters):
        return "not all of its weights are contiguous"
    return None


def kv_shape(model: Any) -> KvShape:
    """What the decoder keeps of each token; of a model that ``can_decode``."""
    return KvShape(
        num_layers=len(model.model.layers),
        num_kv_heads=model.config.num_key_value_heads,
        head_dim=model.model.layers[0].self_attn.head_dim,
        dtype=model.model.embed_tokens.weight.dtype,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    attention_norm: Norm
    qkv: Linears
    head_norms: HeadNorms | None
    scale: float
    output: Linears
    mlp_norm: Norm
    gate_up: Linears
    down: Linears


def _layer(module: Any) -> _Layer:
    attention, mlp = module.self_attn, module.mlp
    return _Layer(
        attention_norm=_norm(module.input_layernorm),
        qkv=_linears(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=_head_norms(attention) if hasattr(attention, "q_norm") else None,
        scale=attention.scaling,
        output=_linears(attention.o_proj),
        mlp_norm=_norm(module.post_attention_layernorm),
        gate_up=_linears(mlp.gate_proj, mlp.up_proj),
        down=_linears(mlp.down_proj),
    )


def _linears(*modules: nn.Linear) -> Linears:
    return Linears([(module.weight, module.bias) for module in modules])


def _norm(module: Any) -> Norm:
    return Norm(weight=module.weight.detach(), eps=module.variance_epsilon)


def _head_norms(attention: Any) -> HeadNorms:
    return HeadNorms(query=_norm(attention.q_norm), key=_norm(attention.k_norm))


def _rope_table(rotary: Any, num_positions: int) -> RopeTable:
    """Once for all positions: the same bits for a position whatever the step. Scaling (Llama 3, YaRN) is in the
    model's own frequencies and factor."""
    positions = torch.arange(num_positions, device=rotary.inv_freq.device, dtype=torch.float32)
    angles = torch.outer(positions, rotary.inv_freq.float())  # (positions, head_dim / 2)
    return RopeTable(turns=torch.stack([angles.cos(), angles.sin()], dim=1) * rotary.attention_scaling)


def _is_unlike_linear(name: str, module: nn.Module) -> bool:
    is_product = name.endswith(("_proj", "lm_head"))
    return is_product and type(module) is not nn.Linear
