"""The container's parser against headers that lie."""

from __future__ import annotations

import json
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters_store.container import Limits, TensorPart, container_parts, map_file, parse_json, read_header, tensor_at
from adapters_store.errors import AdapterRejected, LimitExceeded
from tests.adapters_store.adapter_files import container

LIMITS = Limits()


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4), **more: object) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def rejected(data: bytes, limits: Limits = LIMITS) -> AdapterRejected:
    with pytest.raises(AdapterRejected) as caught:
        read_header(data, limits)
    return caught.value


def test_a_well_formed_header_is_read() -> None:
    header = read_header(
        container({"__metadata__": {"k": "v"}, "t": entry(), "u": entry("BF16", [2, 0], [4, 4])}, b"\0" * 4), LIMITS
    )
    assert header.metadata == {"k": "v"}
    assert header.tensors["t"].shape == (1,)
    assert header.tensors["u"].numel == 0


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (b"", "truncated"),
        (b"\x01\0\0\0", "truncated"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", 0), "header"),
        (struct.pack("<Q", 1 << 63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 0xFFFF_FFFF_FFFF_FFFF) + b"{}", "not a safetensors file"),
        (container(b"[]"), "not a safetensors file"),
        (container(b" {}"), "not a safetensors file"),
        (container(b"12"), "not a safetensors file"),
        (container(b"{}x"), "json"),
        (container(b"{]"), "json"),
        (container(b'{"a":NaN}'), "json"),
        (container(b'{"a":1e999}'), "json"),
        (container(b'{"\xff":1}'), "json"),
        (container(b'{"\\ud800":1}'), "json"),
        (container(b'{"a":1,"a":1}'), "json"),
        (container(b'{"a":' + b"9" * 5000 + b"}"), "json"),
        (container(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "json_depth"),
        (container(b'{"a":[[[[]]]]}'), "json_depth"),
        (container({"__metadata__": []}), "metadata"),
        (container({"__metadata__": {"k": 1}}), "metadata"),
        (container({}, b"\0"), "trailing bytes"),
    ],
)
def test_a_file_that_is_no_container_is_refused(data: bytes, check: str) -> None:
    assert rejected(data).check == check


def test_a_text_is_no_safetensors_file_and_not_one_past_a_limit() -> None:
    error = rejected(b"./my-adapter.safetensors")
    assert not isinstance(error, LimitExceeded)
    assert str(error).startswith("not a safetensors file: expected ")
    assert rejected(b"a text\n" * 2_000_000).check == "not a safetensors file"


def test_a_header_past_the_limit_but_inside_the_file_is_past_the_limit() -> None:
    error = rejected(container({"t": entry()}, b"\0" * 4), Limits(header_bytes=10))
    assert isinstance(error, LimitExceeded)
    assert error.check == "header_bytes"


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        (None, "header"),
        ({"dtype": "F32"}, "header"),
        (entry(extra=1), "header"),
        (entry("F31"), "dtype"),
        (entry(7), "dtype"),
        (entry(shape="1"), "shape"),
        (entry(shape=[1.0]), "shape"),
        (entry(shape=[True]), "shape"),
        (entry(shape=[-1]), "shape"),
        (entry(shape=[1 << 63]), "shape"),
        (entry(shape=[1 << 62]), "dimension"),
        (entry(shape=[1] * 9), "rank"),
        (entry(shape=[1 << 40] * 8), "byte length"),
        (entry(offsets=[0]), "data_offsets"),
        (entry(offsets=[4, 0]), "data_offsets"),
        (entry(offsets=[0, 1 << 70]), "data_offsets"),
        (entry(offsets=[0, 8]), "byte length"),
        (entry("F4", [1], [0, 0]), "byte length"),
        (entry(offsets=[4, 8]), "data_offsets"),
        (entry(shape=[2], offsets=[0, 8]), "truncated"),
        (entry(shape=[0], offsets=[0, 0]), "trailing bytes"),
    ],
)
def test_a_tensor_that_lies_is_refused_by_name(fields: object, check: str) -> None:
    error = rejected(container({"t": fields}, b"\0" * 4))
    assert error.check == check
    assert error.tensor in {"t", None}
    assert error.expected
    assert error.got


@pytest.mark.parametrize(
    ("second", "what"), [((0, 4), "overlap"), ((2, 6), "overlap"), ((5, 9), "hole"), ((1 << 40, (1 << 40) + 4), "hole")]
)
def test_overlaps_and_holes_are_refused(second: tuple[int, int], what: str) -> None:
    error = rejected(container({"t": entry(), "u": entry(offsets=second)}, b"\0" * 8))
    assert error.check == "data_offsets"
    assert what in error.got


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", "\u202eb", "\u2028", "\x9b1m"])
def test_names_that_do_not_print_are_refused(name: str) -> None:
    error = rejected(container({name: entry()}, b"\0" * 4))
    assert error.check == "name"
    assert str(error).isprintable()


def test_a_long_name_is_refused() -> None:
    assert rejected(container({"n" * 300: entry()}, b"\0" * 4)).check == "name_bytes"


def test_a_hundred_thousand_tiny_tensors_are_refused() -> None:
    many = {f"t{i}": entry("U8", [1], [i, i + 1]) for i in range(100_000)}
    data = container(many, b"\0" * 100_000)
    assert rejected(data).check == "header_bytes"
    error = rejected(data, Limits(header_bytes=1 << 30))
    assert isinstance(error, LimitExceeded)
    assert error.check == "tensors"
    assert error.got == "100000"


def test_a_file_past_its_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take hours
    with pytest.raises(LimitExceeded, match="file_bytes"):
        map_file(path, LIMITS)
    with pytest.raises(LimitExceeded, match="file_bytes"):
        read_header(b"\0" * 11, Limits(file_bytes=10))


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected, match="regular file"):
        map_file(Path("/dev/zero"), LIMITS)
    with pytest.raises(AdapterRejected, match="regular file"):
        map_file(tmp_path, LIMITS)
    (tmp_path / "empty").touch()
    with pytest.raises(AdapterRejected, match="empty file"):
        map_file(tmp_path / "empty", LIMITS)


def test_maps_take_no_file_descriptors(tmp_path: Path) -> None:
    """A mapped file kept one each, so that a few hundred resident adapters were all a process could have."""
    (tmp_path / "file").write_bytes(b"x")
    num_before = len(list(Path("/dev/fd").iterdir()))
    maps = [map_file(tmp_path / "file", LIMITS) for _ in range(10)]
    assert len(list(Path("/dev/fd").iterdir())) == num_before
    assert all(bytes(view) == b"x" for view in maps)


def test_a_lying_header_costs_no_more_memory_than_the_file() -> None:
    data = container({"t": entry(shape=[1 << 40, 1 << 39], offsets=[0, (1 << 62) - 1])}, b"\0" * 4096)
    tracemalloc.start()
    try:
        rejected(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * len(data)
    finally:
        tracemalloc.stop()


def test_tensors_lie_over_the_buffer_or_are_copied_where_it_is_read_only_or_not_aligned() -> None:
    parts = container_parts([TensorPart("t", torch.arange(4)), TensorPart("u", torch.zeros(3, dtype=torch.uint16))], {})
    data = b"".join(parts)
    for shift in (0, 1):
        buffer = memoryview(bytearray(b"\0" * shift + data))[shift:]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tensor = tensor_at(buffer, read_header(buffer, LIMITS).tensors["t"])
            copied = tensor_at(buffer.toreadonly(), read_header(buffer, LIMITS).tensors["t"])
        assert tensor.tolist() == copied.tolist() == [0, 1, 2, 3]
        buffer[read_header(buffer, LIMITS).tensors["t"].start] = 9
        assert tensor.tolist()[0] == (9 if shift == 0 else 0)
        assert copied.tolist()[0] == 0


@pytest.mark.parametrize("padding", range(0, 70, 7))
def test_data_start_at_a_multiple_of_64_bytes(padding: int) -> None:
    parts = container_parts([TensorPart("t", torch.ones(3))], {"k": "x" * padding})
    assert len(parts[0]) % 64 == 0
    header = read_header(b"".join(parts), LIMITS)
    assert header.tensors["t"].start == len(parts[0])


def test_text_in_json_may_be_escaped_but_not_half_a_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"', what="x", max_depth=1) == "\U0001f600"
    assert parse_json(json.dumps([[1]]).encode(), what="x", max_depth=2) == [[1]]
    with pytest.raises(LimitExceeded):
        parse_json(b"[[1]]", what="x", max_depth=1)
