"""The C operations against the torch reference, and what a row's result must not depend on."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from server.runners.ops import HeadNorms, Norm, Ops, Ragged, RopeTable, Segment, available_ops, get_ops
from server.runners.ops.reference import ReferenceOps
from server.runners.page_table import num_pages_of
from server.runners.pages import KvShape, Pages

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
NATIVE = [name for name in available_ops(CPU, torch.float32, 64) if name != "reference"]
HEADS = [  # kv heads, query heads of each, head_dim
    (1, 1, 16),
    (3, 3, 64),
    (2, 4, 8),
    (2, 7, 80),
    (1, 8, 128),
    (2, 1, 48),
    (1, 5, 24),
]
RAGGED = [  # (tokens stored before, tokens of the step) of each sequence
    [(0, 1)],
    [(0, 70)],
    [(99, 1), (0, 5), (15, 1), (16, 1), (63, 3), (64, 1), (31, 40), (200, 1)],
]
needs_native = pytest.mark.skipif(not NATIVE, reason="the C extension is not built")
pytestmark = needs_native


@pytest.fixture(params=NATIVE)
def ops(request: pytest.FixtureRequest) -> Ops:
    return get_ops(CPU, torch.float32, 64, request.param)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """KV pages, of which everything that no sequence has stored yet is NaN: whoever reads too much is found out."""

    pages: Pages
    numbers: list[array[int]]

    def ragged(self, parts: list[tuple[int, int]]) -> Ragged:
        return Ragged(
            [
                Segment(num_tokens=count, position=position, pages=pages)
                for (position, count), pages in zip(parts, self.numbers, strict=True)
            ],
            CPU,
        )


def world(heads: tuple[int, int, int], dtype: torch.dtype, parts: list[tuple[int, int]]) -> World:
    """Random keys and values before each segment's first position; pages in no order."""
    kv_heads, _, head_dim = heads
    shape = KvShape(num_layers=1, num_kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
    num_pages = sum(num_pages_of(before + count) for before, count in parts)
    pages = Pages(shape, device=CPU, budget_bytes=num_pages * shape.page_bytes)
    layer = pages.layers[0]
    layer.keys.fill_(float("nan"))
    layer.values.fill_(float("nan"))
    torch.manual_seed(num_pages)
    free = torch.randperm(num_pages).tolist()
    numbers = [array("i", [free.pop() for _ in range(num_pages_of(before + count))]) for before, count in parts]
    for (before, _), mine in zip(parts, numbers, strict=True):
        for position in range(before):
            layer.keys[mine[position // 16], :, :, position % 16] = torch.randn(kv_heads, head_dim).to(dtype)
            layer.values[mine[position // 16], :, position % 16, :head_dim] = torch.randn(kv_heads, head_dim).to(dtype)
    return World(pages=pages, numbers=numbers)


def rows_of(parts: list[tuple[int, int]], heads: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v (rows, width)"""
    kv_heads, group, head_dim = heads
    num_rows = sum(count for _, count in parts)
    widths = (kv_heads * group * head_dim, kv_heads * head_dim, kv_heads * head_dim)
    return tuple(torch.randn(num_rows, width).to(dtype) for width in widths)


def rope_table(head_dim: int) -> RopeTable:
    angles = torch.outer(torch.arange(300.0), 100.0 ** -torch.linspace(0, 1, head_dim // 2))
    return RopeTable(turns=torch.stack([angles.cos(), angles.sin()], dim=1).contiguous())


def attend(
    ops: Ops, at: World, parts: list[tuple[int, int]], qkv: tuple[Tensor, ...], norms: HeadNorms | None = None
) -> Tensor:
    """Stores and attends, on copies of everything but the pages."""
    q, k, v = (each.clone() for each in qkv)
    layer, ragged = at.pages.layers[0], at.ragged(parts)
    ops.rope_and_store_(q, k, v, norms=norms, rope=rope_table(layer.head_dim), ragged=ragged, pages=layer)
    ops.attend_(q, scale=layer.head_dim**-0.5, ragged=ragged, pages=layer)
    return q


def close(actual: Tensor, expected: Tensor) -> None:
    """One rounding of the result apart, and float32 sums in another order."""
    tolerance = {torch.float32: (2e-5, 2e-5), torch.bfloat16: (2**-7, 2e-3)}[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance[0], atol=tolerance[1], equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 576), (70, 31), (33, 64), (2, 4096)])
def test_add_and_norm_is_that_of_the_reference(ops: Ops, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, update = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    norm = Norm(weight=torch.randn(shape[1]).to(dtype), eps=1e-5)
    expected_x, expected = x.clone(), update.clone()
    ReferenceOps().add_norm_(expected_x, expected, norm)
    ops.add_norm_(x, update, norm)
    assert torch.equal(x, expected_x)
    close(update, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 1536), (70, 31), (33, 48)])
def test_gating_is_that_of_the_reference(ops: Ops, shape: tuple[int, int], dtype: torch.dtype) -> None:
    gate, up = (torch.randn(shape) * 20).to(dtype), torch.randn(shape).to(dtype)
    expected = gate.clone()
    ReferenceOps().gate_(expected, up)
    ops.gate_(gate, up)
    close(gate, expected)


def test_gating_is_right_where_exp_leaves_float32_and_keeps_nan(ops: Ops) -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.5, -0.0, 0.0, 88.5, 200.0, 1e30, float("inf"), float("nan")]])
    ops.gate_(gate, torch.ones_like(gate))
    expected = torch.tensor([[0.0, 0, 0, 0, 0, 88.5, 200, 1e30, float("inf"), float("nan")]])
    torch.testing.assert_close(gate[:, 1:], expected[:, 1:], rtol=1e-6, atol=1e-30, equal_nan=True)
    assert abs(gate[0, 0]) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("is_normed", [False, True])
def test_turned_heads_and_stored_pages_are_those_of_the_reference(
    ops: Ops, heads: tuple[int, int, int], dtype: torch.dtype, is_normed: bool
) -> None:
    parts = RAGGED[2]
    head_dim = heads[2]
    weights = torch.randn(2, head_dim).to(dtype)
    norms = HeadNorms(query=Norm(weight=weights[0], eps=1e-6), key=Norm(weight=weights[1], eps=1e-6))
    results = []
    for each in (ops, ReferenceOps()):
        at = world(heads, dtype, parts)
        torch.manual_seed(1)
        q, k, v = rows_of(parts, heads, dtype)
        layer = at.pages.layers[0]
        each.rope_and_store_(
            q,
            k,
            v,
            norms=norms if is_normed else None,
            rope=rope_table(head_dim),
            ragged=at.ragged(parts),
            pages=layer,
        )
        results.append((q, layer.keys, layer.values[..., :head_dim]))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("parts", RAGGED)
def test_attention_is_that_of_the_reference(
    ops: Ops, heads: tuple[int, int, int], dtype: torch.dtype, parts: list[tuple[int, int]]
) -> None:
    qkv = rows_of(parts, heads, dtype)
    actual = attend(ops, world(heads, dtype, parts), parts, qkv)
    expected = attend(ReferenceOps(), world(heads, dtype, parts), parts, qkv)
    assert expected.isfinite().all()
    close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_a_row_attends_to_the_same_bits_alone_and_in_a_batch(
    ops: Ops, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    parts = RAGGED[2]
    qkv = rows_of(parts, heads, dtype)
    together = attend(ops, world(heads, dtype, parts), parts, qkv)
    row = 0
    for number, (_, count) in enumerate(parts):
        full = world(heads, dtype, parts)
        only = World(pages=full.pages, numbers=[full.numbers[number]])
        mine = tuple(each[row : row + count] for each in qkv)
        assert torch.equal(attend(ops, only, [parts[number]], mine), together[row : row + count])
        row += count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("chunk", [1, 7, 16, 33])
def test_a_prompt_attends_to_the_same_bits_whole_and_in_chunks(
    ops: Ops, heads: tuple[int, int, int], dtype: torch.dtype, chunk: int
) -> None:
    total = 150
    qkv = rows_of([(0, total)], heads, dtype)
    whole = attend(ops, world(heads, dtype, [(0, total)]), [(0, total)], qkv)
    at = world(heads, dtype, [(0, total)])
    parts = [
        attend(ops, at, [(start, min(chunk, total - start))], tuple(each[start : start + chunk] for each in qkv))
        for start in range(0, total, chunk)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_tensors_that_do_not_go_together_are_refused(ops: Ops) -> None:
    gate = torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"expected contiguous torch\.float32, got torch\.bfloat16"):
        ops.gate_(gate, gate.bfloat16())
    with pytest.raises(ValueError, match="expected contiguous"):
        ops.gate_(gate.T, gate.T)


def test_where_the_c_operations_cannot_run_the_reference_does() -> None:
    assert available_ops(CPU, torch.float16, 64) == ("reference",)
    assert available_ops("cuda", torch.bfloat16, 64) == ("reference",)
    assert available_ops(CPU, torch.bfloat16, 512) == ("reference",)
    with pytest.raises(ValueError, match="ops: expected one of reference"):
        get_ops(CPU, torch.float16, 64, "c-avx512")
