from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from adapters_store.adapter import Digest, build_index_set, build_table, values_digest
from adapters_store.container import map_file
from adapters_store.errors import BlobCorrupt
from adapters_store.format import Limits, decode_index_set, decode_values, encode_index_set, encode_values
from tests.adapters_store.adapter_files import same_bits, sample_adapter

OTHER = Digest("sha256:" + "0" * 64)


def blob(parts: list[bytes | memoryview]) -> bytearray:
    return bytearray(b"".join(parts))


@pytest.mark.parametrize("verify", [True, False])
def test_an_index_set_comes_back_as_it_was(verify: bool) -> None:
    index_set = sample_adapter().index_set
    read = decode_index_set(blob(encode_index_set(index_set)), index_set.digest, verify=verify)
    assert (read.digest, read.table) == (index_set.digest, index_set.table)
    assert same_bits(read.offsets, index_set.offsets)
    assert same_bits(read.indices, index_set.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("verify", [True, False])
def test_values_come_back_as_they_were(dtype: torch.dtype, verify: bool) -> None:
    values = torch.tensor([1.5, -0.0, 0.0, 3e-8]).to(dtype)
    assert same_bits(decode_values(blob(encode_values(values)), values_digest(values), verify=verify), values)


def test_decoding_a_mapped_file_copies_nothing(tmp_path: Path) -> None:
    values = torch.arange(100, dtype=torch.float32)
    (tmp_path / "values").write_bytes(blob(encode_values(values)))
    mapped = map_file(tmp_path / "values", Limits())
    read = decode_values(mapped, values_digest(values))
    mapped[len(mapped) - 400 : len(mapped) - 396] = b"\0\0\x80\x3f"
    assert read[0] == 1.0
    assert (tmp_path / "values").read_bytes() == bytes(blob(encode_values(values)))  # the file is never written


def test_read_only_bytes_are_decoded_too() -> None:
    values = torch.ones(3)
    assert same_bits(decode_values(bytes(blob(encode_values(values))), values_digest(values)), values)


def test_bytes_under_the_wrong_digest_are_corrupt() -> None:
    adapter = sample_adapter()
    with pytest.raises(BlobCorrupt, match="disk"):
        decode_index_set(blob(encode_index_set(adapter.index_set)), OTHER, where="disk")
    with pytest.raises(BlobCorrupt):
        decode_values(blob(encode_values(adapter.values)), OTHER)


def test_any_flipped_bit_or_lost_byte_is_corrupt() -> None:
    adapter = sample_adapter()
    index_blob, values_blob = blob(encode_index_set(adapter.index_set)), blob(encode_values(adapter.values))
    for position in range(len(index_blob)):
        damaged = bytearray(index_blob)
        damaged[position] ^= 1
        if damaged.rstrip(b" ") and not _only_padding(index_blob, position):
            with pytest.raises(BlobCorrupt):
                decode_index_set(damaged, adapter.index_set.digest)
    for length in range(len(values_blob)):
        with pytest.raises(BlobCorrupt):
            decode_values(values_blob[:length], adapter.values_digest)


def _only_padding(data: bytearray, position: int) -> bool:
    """Whether JSON reads the same with another blank here."""
    return data[position] == ord(" ") and (data[position] ^ 1) in b" \t\r\n"


def test_an_invalid_set_is_corrupt_even_under_its_true_digest() -> None:
    table = build_table([("a.weight", (10,), "float32", 2)])
    unsorted = build_index_set(table, torch.tensor([0, 2]), torch.tensor([5, 4], dtype=torch.uint16))
    with pytest.raises(BlobCorrupt) as caught:
        decode_index_set(blob(encode_index_set(unsorted)), unsorted.digest)
    assert "sorted" in str(caught.value.__cause__)
    infinite = torch.tensor([float("inf")])
    with pytest.raises(BlobCorrupt):
        decode_values(blob(encode_values(infinite)), values_digest(infinite))


def test_without_verification_only_the_header_is_read(tmp_path: Path) -> None:
    names = sorted(f"model.layers.{layer}.mlp.part_{part}.weight" for layer in range(50) for part in range(8))
    table = build_table([(name, (2048, 2048), "bfloat16", 40_000) for name in names])
    num_entries = 40_000 * len(names)
    spread = torch.arange(0, 64 * len(names) + 1) * num_entries // (64 * len(names))
    local = torch.arange(num_entries).remainder(625).to(torch.uint16)  # valid: 625 entries in each block
    index_set = build_index_set(table, spread, local)
    (tmp_path / "set").write_bytes(blob(encode_index_set(index_set)))
    took_s = []
    for _ in range(5):
        start = time.perf_counter()
        decode_index_set(map_file(tmp_path / "set", Limits()), index_set.digest, verify=False)
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.05  # a few ms for 400 weights; hashing the 33 MB would take many more
