"""Fusion against a slow dense reference, which is the specification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapters_store.adapter import Adapter, Fingerprint
from adapters_store.blend import DELTA_METHODS, STEPWISE_METHODS, DeltaMethod, Fusion, StepwiseMethod
from adapters_store.errors import BlendRejected
from adapters_store.format import unpack_positions
from adapters_store.fusion import Overlap, SparseDelta, fuse, overlap
from adapters_store.kernels import available_kernels, get_kernels
from tests.adapters_store.adapter_files import SHAPES, make_adapter, same_bits

KERNELS = [get_kernels("cpu", name) for name in available_kernels("cpu")]
NAMES = sorted(SHAPES)
NUMEL = {name: math.prod(SHAPES[name]) for name in NAMES}
Members = Sequence[tuple[Adapter, float]]


def dense_fuse(members: Members, fusion: Fusion) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """name -> (delta, touched), dense over every weight; one position at a time, in float32."""
    deltas: dict[str, Tensor] = {}
    touched: dict[str, Tensor] = {}
    spread = [(dense_values(adapter, fusion), scale) for adapter, scale in members]
    for name in NAMES:
        delta, mask = torch.zeros(NUMEL[name]), torch.zeros(NUMEL[name], dtype=torch.bool)
        for position in sorted({position for entries, _ in spread for position in entries[name]}):
            here = [(float32(scale), entries[name][position]) for entries, scale in spread if position in entries[name]]
            everywhere = [float32(scale) for _, scale in members]
            delta[position] = fuse_position(here, everywhere, fusion)
            mask[position] = True
        deltas[name], touched[name] = delta, mask
    return deltas, touched


def fuse_position(here: list[tuple[Tensor, Tensor]], everywhere: list[Tensor], fusion: Fusion) -> Tensor:
    products = [scale * value for scale, value in here]
    match fusion.method:
        case "sum":
            return total(products)
        case "mean":
            return total(products) / total(everywhere)
        case "ram":
            return products[0] if len(here) == 1 else total(products) / total([scale for scale, _ in here])
        case "ties":
            elected = total(products).sign()
            agreeing = [product for product in products if product != 0 and product.sign() == elected]
            return total(agreeing) / len(agreeing) if agreeing else float32(0)
        case "switch" | "composite":
            raise AssertionError("makes no delta")


def dense_values(adapter: Adapter, fusion: Fusion) -> dict[str, dict[int, Tensor]]:
    """name -> position -> value, trimmed for ties."""
    values: dict[str, dict[int, Tensor]] = {name: {} for name in NAMES}
    starts = adapter.index_set.entry_starts
    for (entry, flat), start in zip(unpack_positions(adapter.index_set), starts, strict=False):
        pairs = list(zip(flat.tolist(), adapter.values[start : start + entry.count].float(), strict=True))
        if fusion.method == "ties" and fusion.density is not None:
            nonzero = [pair for pair in pairs if pair[1] != 0]
            num_kept = max(1, math.floor(fusion.density * len(nonzero)))
            kept = {position for position, _ in sorted(nonzero, key=lambda pair: (-abs(pair[1]), pair[0]))[:num_kept]}
            pairs = [(position, value if position in kept else float32(0)) for position, value in pairs]
        values[entry.name] = dict(pairs)
    return values


def float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def total(terms: list[Tensor]) -> Tensor:
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def spread_out(result: SparseDelta) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    deltas = {name: torch.zeros(NUMEL[name]) for name in NAMES}
    touched = {name: torch.zeros(NUMEL[name], dtype=torch.bool) for name in NAMES}
    starts = result.index_set.entry_starts
    for (entry, flat), start in zip(unpack_positions(result.index_set), starts, strict=False):
        deltas[entry.name][flat] = result.delta[start : start + entry.count]
        touched[entry.name][flat] = True
    return deltas, touched


def assert_equals_dense(members: Members, fusion: Fusion, kernels_number: int) -> None:
    result = fuse(members, fusion, KERNELS[kernels_number])
    assert result.delta.dtype == torch.float32
    (deltas, touched), (expected, expected_touched) = spread_out(result), dense_fuse(members, fusion)
    for name in NAMES:
        assert torch.equal(touched[name], expected_touched[name])
        assert torch.equal(deltas[name], expected[name])  # to the last bit, but for the sign of a zero


# Values that are equal, opposite and zero are likely, so that signs cancel and magnitudes tie.
_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.1, -0.3, 3e-3, 7.25])
_positions = st.dictionaries(
    st.sampled_from(NAMES),
    st.sets(st.integers(0, 69) | st.sampled_from([65_535, 65_536, 119_999]), min_size=1),
    min_size=1,
).map(lambda chosen: {name: {at % NUMEL[name] for at in chosen[name]} for name in chosen})
_scales = st.sampled_from([1.0, 0.5, 0.7, -1.0, -0.25, 2.0, 0.1])
_fusions = st.builds(Fusion, method=st.sampled_from(DELTA_METHODS)) | st.builds(
    Fusion, method=st.just("ties"), density=st.sampled_from([0.01, 0.3, 0.5, 1.0])
)


@st.composite
def blends(draw: st.DrawFn) -> list[tuple[Adapter, float]]:
    """Up to four adapters: on masks of their own, on each other's, on none in common."""
    masks = draw(st.lists(_positions, min_size=1, max_size=3))
    members = []
    for _ in range(draw(st.integers(1, 4))):
        mask = draw(st.sampled_from(masks))
        count = sum(len(positions) for positions in mask.values())
        values = draw(st.lists(_values, min_size=count, max_size=count))
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
        adapter = make_adapter({name: sorted(at) for name, at in mask.items()}, values, dtype=dtype)
        members.append((adapter, draw(_scales)))
    return members


@given(blends(), _fusions, st.integers(0, len(KERNELS) - 1))
@settings(max_examples=120, deadline=None)
def test_every_method_equals_its_dense_definition(members: Members, fusion: Fusion, kernels_number: int) -> None:
    try:
        assert_equals_dense(members, fusion, kernels_number)
    except BlendRejected:
        assert fusion.method in {"mean", "ram"}
        assert any(adapter_scales_cancel(members, size) for size in range(2, len(members) + 1))


def adapter_scales_cancel(members: Members, size: int) -> bool:
    return any(abs(math.fsum(scales)) < 1e-5 for scales in combinations([scale for _, scale in members], size))


A = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [1.0, 2.0, 3.0])
B = make_adapter({"a.weight": [1, 7], "b.weight": [69]}, [-4.0, 5.0, 6.0])


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [  # a.weight 1 (both), 7 (B), 65,536 (A); b.weight 69 (B); c.weight 5 (A); scales 0.5 and 0.25
        (Fusion(method="sum"), [-0.5, 1.25, 1.0, 1.5, 1.5]),
        (Fusion(method="mean"), [-0.5 / 0.75, 1.25 / 0.75, 1.0 / 0.75, 2.0, 2.0]),
        (Fusion(method="ram"), [-0.5 / 0.75, 1.25, 1.0, 1.5, 1.5]),
        (Fusion(method="ties"), [-1.0, 1.25, 1.0, 1.5, 1.5]),
        (Fusion(method="ties", density=0.5), [-1.0 * 0, 1.25, 1.0, 1.5, 1.5]),
    ],
)
def test_two_overlapping_adapters_by_hand(fusion: Fusion, expected: list[float]) -> None:
    result = fuse([(A, 0.5), (B, 0.25)], fusion, KERNELS[0])
    assert [entry.count for entry in result.index_set.table] == [3, 1, 1]
    assert result.delta.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("method", DELTA_METHODS)
def test_members_of_one_index_set_get_that_very_set_back(method: DeltaMethod) -> None:
    fusion = Fusion(method=method)
    other = make_adapter({"a.weight": [1, 65_536], "c.weight": [5]}, [-3.0, 2.0, 8.0])
    assert fuse([(A, 1.0)], fusion, KERNELS[0]).index_set is A.index_set
    assert fuse([(A, 1.0), (other, 0.5)], fusion, KERNELS[0]).index_set is A.index_set


def test_one_adapter_at_scale_one_is_its_values_to_the_bit() -> None:
    for method in DELTA_METHODS:
        delta = fuse([(A, 1.0)], Fusion(method=method), KERNELS[0]).delta
        assert same_bits(delta, A.values)


def test_a_union_is_named_after_its_members_whatever_scales_method_and_order() -> None:
    names = {
        fuse(members, fusion, KERNELS[0]).index_set.digest
        for members in ([(A, 1.0), (B, 1.0)], [(B, 0.3), (A, 2.0)])
        for fusion in (Fusion(), Fusion(method="ties", density=0.1), Fusion(method="ram"))
    }
    assert len(names) == 1
    assert not names & {A.index_set.digest, B.index_set.digest}


def test_the_union_is_a_valid_index_set() -> None:
    union = fuse([(A, 1.0), (B, 1.0)], Fusion(), KERNELS[0]).index_set
    assert KERNELS[0].scan_indices(union.table, union.offsets, union.indices) is None


@pytest.mark.parametrize(
    ("fusion", "scales"),
    [
        (Fusion(method="mean"), (1.0, -1.0)),
        (Fusion(method="mean"), (0.0, 0.0)),
        (Fusion(method="ram"), (0.5, -0.5)),
        (Fusion(method="sum", density=0.5), (1.0, 1.0)),
        (Fusion(method="ties", density=0.0), (1.0, 1.0)),
        (Fusion(method="ties", density=1.5), (1.0, 1.0)),
        (Fusion(method="ties", density=math.nan), (1.0, 1.0)),
    ],
)
def test_a_blend_without_a_meaning_is_rejected(fusion: Fusion, scales: tuple[float, float]) -> None:
    with pytest.raises(BlendRejected):
        fuse([(A, scales[0]), (B, scales[1])], fusion, KERNELS[0])


@pytest.mark.parametrize("method", STEPWISE_METHODS)
def test_only_the_parts_of_a_stepwise_blend_are_ever_fused(method: StepwiseMethod) -> None:
    with pytest.raises(AssertionError, match=f"{method} composes over steps"):
        fuse([(A, 1.0), (B, 1.0)], Fusion(method=method), KERNELS[0])


def test_scales_that_cancel_but_for_rounding_are_rejected_too() -> None:
    third = make_adapter({"a.weight": [1]}, [1.0])
    methods: tuple[DeltaMethod, ...] = ("mean", "ram")
    for method in methods:
        with pytest.raises(BlendRejected, match="add up to 0"):
            fuse([(A, 0.1), (B, 0.2), (third, -0.3)], Fusion(method=method), KERNELS[0])


def test_scales_that_cancel_do_not_matter_where_adapters_do_not_meet() -> None:
    apart = make_adapter({"b.weight": [3]}, [1.0])
    assert fuse([(A, 1.0), (apart, -1.0)], Fusion(method="ram"), KERNELS[0]).delta.tolist() == [1.0, 2.0, -1.0, 3.0]


def test_adapters_of_different_bases_and_empty_blends_are_rejected() -> None:
    stranger = make_adapter({"b.weight": [3]}, [1.0], base=Fingerprint("sha256:" + "0" * 64))
    with pytest.raises(BlendRejected, match="one base"):
        fuse([(A, 1.0), (stranger, 1.0)], Fusion(), KERNELS[0])
    with pytest.raises(BlendRejected, match="one base"):
        overlap(A, stranger)
    with pytest.raises(BlendRejected, match="empty"):
        fuse([], Fusion(), KERNELS[0])


def test_overlap_counts_positions_signs_and_the_angle() -> None:
    found = overlap(A, B)
    cosine = -4.0 / math.sqrt((1 + 4 + 9) * (16 + 25 + 36))
    assert (found.shared, found.only_a, found.only_b, found.sign_conflicts) == (1, 2, 2, 1)
    assert found.delta_cosine == pytest.approx(cosine)
    assert overlap(B, A).delta_cosine == pytest.approx(cosine)
    assert overlap(A, A).delta_cosine == pytest.approx(1.0)


def test_overlap_of_disjoint_and_of_zero_adapters() -> None:
    apart = make_adapter({"b.weight": [3]}, [1.0])
    assert overlap(A, apart) == Overlap(shared=0, only_a=3, only_b=1, sign_conflicts=0, delta_cosine=0.0)
    zero = make_adapter({"b.weight": [3]}, [0.0])
    assert overlap(apart, zero).delta_cosine is None
