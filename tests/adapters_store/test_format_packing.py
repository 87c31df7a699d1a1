from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.adapter import build_adapter
from adapters_store.format import Positions, pack_positions, read_adapter, unpack_positions, write_adapter
from tests.adapters_store.adapter_files import BASE, SHAPES

NUMEL = {"a.weight": 120_000, "b.weight": 70, "c.weight": 2048}


@given(
    st.dictionaries(
        st.sampled_from(sorted(NUMEL)), st.sets(st.integers(0, 119_999), min_size=1, max_size=40), min_size=1
    )
)
@settings(max_examples=40, deadline=None)
def test_positions_packed_and_unpacked_are_the_same_and_valid(chosen: dict[str, set[int]]) -> None:
    weights = [
        Positions(
            name=name,
            shape=SHAPES[name],
            dtype="float32",
            flat=torch.tensor(sorted({position % NUMEL[name] for position in chosen[name]})),
        )
        for name in sorted(chosen)
    ]
    index_set = pack_positions(weights)
    unpacked = list(unpack_positions(index_set))
    assert [entry.name for entry, _ in unpacked] == [weight.name for weight in weights]
    assert all(torch.equal(flat, weight.flat) for (_, flat), weight in zip(unpacked, weights, strict=True))


def test_block_edges_fall_into_their_blocks(tmp_path: Path) -> None:
    flat = torch.tensor([0, 65_535, 65_536, 119_999])
    index_set = pack_positions([Positions(name="a.weight", shape=SHAPES["a.weight"], dtype="float32", flat=flat)])
    assert index_set.offsets.tolist() == [0, 2, 4]
    assert index_set.indices.tolist() == [0, 65_535, 0, 119_999 - 65_536]
    write_adapter(build_adapter(base=BASE, index_set=index_set, values=torch.ones(4)), tmp_path / "a")
    read_adapter(tmp_path / "a", base=None)
