from __future__ import annotations

import hashlib
import json

import pytest
import torch

from adapters_store.adapter import (
    BLOCK_ELEMENTS,
    build_table,
    canonical_json,
    index_set_digest,
    num_blocks,
    sha256_digest,
    values_digest,
)
from tests.adapters_store.adapter_files import make_adapter, sample_adapter


@pytest.mark.parametrize(("numel", "expected"), [(1, 1), (BLOCK_ELEMENTS, 1), (BLOCK_ELEMENTS + 1, 2), (0, 0)])
def test_a_weight_has_as_many_blocks_as_cover_it(numel: int, expected: int) -> None:
    assert num_blocks(numel) == expected


def test_blocks_restart_at_each_weight_and_their_numbers_run_on() -> None:
    table = build_table([("a", (300, 400), "float32", 1), ("b", (70,), "float32", 1), ("c", (1,), "float32", 1)])
    assert [(entry.first_block, entry.end_block) for entry in table] == [(0, 2), (2, 3), (3, 4)]


def test_digests_are_those_that_the_specification_spells_out() -> None:
    adapter = sample_adapter()
    index_set = adapter.index_set
    table = [
        {"count": 3, "dtype": "bfloat16", "first_block": 0, "name": "a.weight", "shape": [300, 400]},
        {"count": 4, "dtype": "bfloat16", "first_block": 2, "name": "c.weight", "shape": [64, 32]},
    ]
    table_text = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    offsets = b"".join(value.to_bytes(8, "little") for value in (0, 0, 3, 7))
    indices = b"".join(value.to_bytes(2, "little") for value in (0, 4, 119_999 - 65_536, 0, 31, 32, 2047))
    index_digest = hashlib.sha256(b"shira.index-set.v1\n" + table_text + b"\n" + offsets + indices).hexdigest()
    values = adapter.values.numpy().tobytes()
    values_hex = hashlib.sha256(b"shira.values.v1\nfloat32\n" + values).hexdigest()
    manifest = {
        "format": "shira.adapter.v1",
        "base": adapter.base,
        "weights": table,
        "index_set": f"sha256:{index_digest}",
        "values": f"sha256:{values_hex}",
        "values_dtype": "float32",
    }
    version = hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert index_set.digest == f"sha256:{index_digest}"
    assert adapter.values_digest == f"sha256:{values_hex}"
    assert adapter.version == f"sha256:{version}"


def test_adapters_made_with_one_mask_share_the_index_set_but_not_the_version() -> None:
    one, other = make_adapter({"b.weight": [1, 2]}, [1.0, 2.0]), make_adapter({"b.weight": [1, 2]}, [1.0, 3.0])
    assert one.index_set.digest == other.index_set.digest
    assert one.version != other.version


def test_the_digest_of_values_tells_their_dtype_and_every_bit() -> None:
    zeros = torch.zeros(4)
    digests = {
        values_digest(zeros),
        values_digest(zeros.half()),
        values_digest(zeros.bfloat16()),
        values_digest(-zeros),
        values_digest(torch.zeros(5)),
    }
    assert len(digests) == 5


def test_the_digest_of_an_index_set_covers_the_table() -> None:
    offsets, indices = torch.tensor([0, 1]), torch.tensor([3], dtype=torch.uint16)
    tables = [build_table([(name, (70,), dtype, 1)]) for name in ("a", "b") for dtype in ("float32", "bfloat16")]
    assert len({index_set_digest(table, offsets, indices) for table in tables}) == 4


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": 1, "a": ["é", 0.5]}) == '{"a":["é",0.5],"b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))


def test_a_digest_of_parts_is_the_digest_of_the_whole() -> None:
    assert sha256_digest(b"ab", memoryview(b"c")) == "sha256:" + hashlib.sha256(b"abc").hexdigest()
