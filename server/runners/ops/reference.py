"""The operations in plain torch, on any device: the specification of the fast ones."""

from __future__ import annotations

import torch
from torch import Tensor

from server.runners.ops.interface import HeadNorms, LayerPages, Norm, RopeTable
from server.runners.ops.ragged import Ragged
from server.runners.page_table import PAGE_TOKENS


class ReferenceOps:
    """Satisfies Ops."""

    name = "reference"

    def add_norm_(self, x: Tensor, update: Tensor, norm: Norm) -> None:
        x += update
        update.copy_(_normed(x, norm))

    def rope_and_store_(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        norms: HeadNorms | None,
        rope: RopeTable,
        ragged: Ragged,
        pages: LayerPages,
    ) -> None:
        queries, keys, values = (x.view(len(x), -1, pages.head_dim) for x in (q, k, v))  # (rows, heads, head_dim)
        turns = rope.turns[ragged.positions].unsqueeze(1)  # (rows, 1, 2, head_dim / 2)
        if norms is None:
            queries.copy_(_turned(queries.float(), turns))
            keys = _turned(keys.float(), turns)
        else:
            queries.copy_(_turned(_normed(queries, norms.query), turns))
            keys = _turned(_normed(keys, norms.key), turns)
        slots = ragged.positions % PAGE_TOKENS
        pages.keys[ragged.row_pages, :, :, slots] = keys.to(q.dtype)
        pages.values[ragged.row_pages, :, slots, : pages.head_dim] = values

    def attend_(self, q: Tensor, *, scale: float, ragged: Ragged, pages: LayerPages) -> None:
        row = 0
        for segment, numbers in zip(ragged.segments, ragged.segment_pages, strict=True):
            rows = slice(row, row + segment.num_tokens)
            row += segment.num_tokens
            end = segment.position + segment.num_tokens
            queries = q[rows].view(segment.num_tokens, pages.num_heads, -1, pages.head_dim).float()
            keys = pages.keys[numbers].permute(1, 2, 0, 3).flatten(2)[..., :end].float()  # (heads, head_dim, end)
            values = pages.values[numbers].transpose(0, 1).flatten(1, 2)  # (heads, tokens, value_dim)
            values = values[:, :end, : pages.head_dim].float()
            scores = torch.einsum("rhgd,hdt->rhgt", queries * scale, keys)
            is_ahead = torch.arange(end, device=q.device) > ragged.positions[rows, None]  # (rows, end)
            shares = scores.masked_fill(is_ahead[:, None, None], float("-inf")).softmax(dim=-1)
            q[rows] = torch.einsum("rhgt,htd->rhgd", shares, values).flatten(1).to(q.dtype)

    def gate_(self, gate: Tensor, up: Tensor) -> None:
        wide = gate.float()
        gate.copy_(wide / (1 + (-wide).exp()) * up.float())


def _normed(x: Tensor, norm: Norm) -> Tensor:
    """float32"""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + norm.eps) * norm.weight.float()


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """``heads`` (rows, heads, head_dim), ``turns`` (rows, 1, 2, head_dim / 2), both float32."""
    left, right = heads.chunk(2, dim=-1)
    cosines, sines = turns.unbind(dim=2)
    return torch.cat([left * cosines - right * sines, right * cosines + left * sines], dim=-1)
