"""Whatever happens to the bytes, reading them ends in an adapter or in an error of the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters_store.adapter import build_adapter, build_index_set
from adapters_store.container import container_parts
from adapters_store.container.writing import TensorPart
from adapters_store.errors import AdapterRejected, AdapterStoreError
from adapters_store.format import (
    decode_index_set,
    decode_values,
    encode_index_set,
    encode_values,
    read_adapter,
    write_adapter,
)
from adapters_store.peft_format import DIFFUSERS_KEY, read_single_file
from tests.adapters_store.adapter_files import description, sample_adapter


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Flipped, replaced, lost and inserted bytes; the header gets as much of it as all the rest."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "set", "cut", "insert", "truncate", "digit"]),
                st.floats(0, 1, exclude_max=True),
                st.integers(0, 255),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def apply(data: bytes) -> bytes:
        changed = bytearray(data)
        for kind, place, byte in edits:
            if not changed:
                break
            at = int(place * len(changed))
            match kind:
                case "flip":
                    changed[at] ^= 1 << (byte % 8)
                case "set":
                    changed[at] = byte
                case "cut":
                    del changed[at : at + 1 + byte % 16]
                case "insert":
                    changed[at:at] = bytes([byte]) * (1 + byte % 4)
                case "truncate":
                    del changed[at:]
                case "digit":
                    digits = [position for position, value in enumerate(changed) if 48 <= value < 58]
                    if digits:
                        changed[digits[int(place * len(digits))]] = 48 + byte % 10
        return bytes(changed)

    return apply


@cache
def native_file() -> bytes:
    with TemporaryDirectory() as folder:
        write_adapter(sample_adapter(), Path(folder) / "a", card={"author": "someone"})
        return (Path(folder) / "a").read_bytes()


@cache
def diffusers_file() -> bytes:
    indices = torch.tensor([[3, 1, 2], [7, 0, 31]], dtype=torch.int32)
    parts = [TensorPart("c.shira_indices", indices), TensorPart("c.shira_weight", torch.tensor([0.5, 1.0, -2.0]))]
    return b"".join(container_parts(parts, {DIFFUSERS_KEY: '{"peft_type":"SHIRA","r":1}'}))


@given(damage())
@settings(max_examples=150, deadline=None)
def test_a_damaged_native_file_is_refused_or_what_its_version_says(damaged: Callable[[bytes], bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(damaged(native_file()))
        try:
            read = read_adapter(path, base=None).adapter
        except AdapterRejected:
            return
        index_set = build_index_set(read.index_set.table, read.index_set.offsets, read.index_set.indices)
        assert build_adapter(base=read.base, index_set=index_set, values=read.values).version == read.version


@given(damage())
@settings(max_examples=150, deadline=None)
def test_a_damaged_peft_file_is_refused_or_an_adapter_in_range(damaged: Callable[[bytes], bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(damaged(diffusers_file()))
        try:
            adapter = read_single_file(path, base=description()).adapter
        except AdapterRejected:
            return
        assert int(adapter.index_set.indices.int().max()) < 2048
        assert bool(adapter.values.isfinite().all())


@given(damage(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_damaged_blobs_are_corrupt_or_whole(damaged: Callable[[bytes], bytes], verify: bool) -> None:
    adapter = sample_adapter()
    index_set = adapter.index_set
    try:
        read = decode_index_set(damaged(b"".join(encode_index_set(index_set))), index_set.digest, verify=verify)
        assert not verify or torch.equal(read.offsets, index_set.offsets)
    except AdapterStoreError:
        pass
    try:
        values = decode_values(damaged(b"".join(encode_values(adapter.values))), adapter.values_digest, verify=verify)
        assert not verify or torch.equal(values, adapter.values)
    except AdapterStoreError:
        pass


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_of_no_meaning_are_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        try:
            read_single_file(path, base=description())
        except AdapterRejected:
            return
        raise AssertionError("was read")
