"""The native file: what is written is read back bit for bit, and nothing but the one right file is accepted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, Fingerprint, build_adapter, build_index_set, build_table, manifest_json
from adapters_store.errors import AdapterRejected, BaseMismatch, LimitExceeded, StorageFull
from adapters_store.format import Limits, read_adapter, write_adapter
from tests.adapters_store.adapter_files import (
    BASE,
    SHAPES,
    description,
    make_adapter,
    native_parts,
    same_bits,
    sample_adapter,
    write_native,
)

Manifest = dict[str, Any]
Edit = Callable[[dict[str, Tensor], Manifest], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_adapter(sample_adapter(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = make_adapter({"a.weight": [0, 65_535, 65_536], "b.weight": [69], "c.weight": range(2048)}, dtype=dtype)
    path = tmp_path / "a.safetensors"
    write_adapter(adapter, path, card={"author": "é", "nested": [1, 0.5, None]})
    parsed = read_adapter(path, base=description())
    assert parsed.base_verified
    assert parsed.card == {"author": "é", "nested": [1, 0.5, None]}
    read = parsed.adapter
    assert (read.version, read.base, read.values_digest) == (adapter.version, adapter.base, adapter.values_digest)
    assert read.index_set.table == adapter.index_set.table
    assert same_bits(read.index_set.offsets, adapter.index_set.offsets)
    assert same_bits(read.index_set.indices, adapter.index_set.indices)
    assert same_bits(read.values, adapter.values)


def test_the_same_adapter_gives_the_same_bytes_and_the_card_is_outside_the_version(tmp_path: Path) -> None:
    adapter = sample_adapter()
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for path, card in zip(paths, [None, None, {"k": 1}], strict=True):
        write_adapter(adapter, path, card=card)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert read_adapter(paths[0], base=None).adapter.version == read_adapter(paths[2], base=None).adapter.version


def test_a_file_that_the_safetensors_library_wrote_is_the_same_adapter(tmp_path: Path, path: Path) -> None:
    tensors, metadata = native_parts(path)
    other = write_native(tmp_path / "other", tensors, metadata["shira"], format="pt")
    assert read_adapter(other, base=None).adapter.version == sample_adapter().version


def test_without_a_base_the_record_says_so(path: Path) -> None:
    assert not read_adapter(path, base=None).base_verified


def _column(name: str, position: int, value: float) -> Edit:
    return lambda tensors, _: tensors[name].__setitem__(position, value)


def _row(number: int, **fields: object) -> Edit:
    return lambda _, manifest: manifest["weights"][number].update(fields)


def _field(**fields: object) -> Edit:
    return lambda _, manifest: manifest.update(fields)


def _tensor(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda tensors, _: tensors.__setitem__(name, change(tensors[name]))


NO_DIGEST = "sha256:" + "0" * 64


# offsets 0 0 3 7, indices 0 4 54463 | 0 31 32 2047
@pytest.mark.parametrize(
    ("edit", "check", "tensor"),
    [
        (_column("indices", 0, 5), "sorted", "a.weight"),
        (_column("indices", 1, 0), "unique", "a.weight"),
        (_column("indices", 2, 54_464), "range", "a.weight"),
        (_column("indices", 6, 2048), "range", "c.weight"),
        (_column("indices", 6, 65_535), "range", "c.weight"),
        (_column("offsets", 0, 1), "offsets", "offsets"),
        (_column("offsets", 1, -1), "offsets", "offsets"),
        (_column("offsets", 1, 5), "offsets", "offsets"),
        (_column("offsets", 2, 4), "count", "a.weight"),
        (_column("offsets", 3, 8), "offsets", "offsets"),
        (_column("offsets", 3, 1 << 62), "offsets", "offsets"),
        (_column("values", 3, float("nan")), "finite", "values"),
        (_column("values", 0, float("-inf")), "finite", "values"),
        (_column("values", 3, 0.5), "digest", "manifest.values"),
        (_column("indices", 5, 33), "digest", "manifest.index_set"),
        (_tensor("indices", lambda t: t.view(torch.int16).int()), "dtype", "indices"),
        (_tensor("indices", lambda t: t.view(torch.int16).float()), "dtype", "indices"),
        (_tensor("offsets", lambda t: t.int()), "dtype", "offsets"),
        (_tensor("values", lambda t: t.double()), "dtype", "values"),
        (_tensor("values", lambda t: t.half()), "dtype", "values"),
        (_tensor("values", lambda t: t[:-1].clone()), "shape", "values"),
        (_tensor("values", lambda t: t.view(1, -1)), "shape", "values"),
        (_tensor("offsets", lambda t: t[:-1].clone()), "shape", "offsets"),
        (lambda tensors, _: tensors.pop("values"), "tensors", "'values'"),
        (lambda tensors, _: tensors.update(more=torch.zeros(1)), "tensors", "'more'"),
        (_row(0, name="c.weight"), "order", "c.weight"),
        (_row(0, name="d.weight"), "order", "c.weight"),
        (_row(0, name="a/weight"), "name", "'a/weight'"),
        (_row(0, name="../weight"), "name", "'../weight'"),
        (_row(0, name="a..weight"), "name", "'a..weight'"),
        (_row(0, name="a\0.weight"), "name", "'a\\x00.weight'"),
        (_row(0, name="\u0430.weight"), "name", "'\\u0430.weight'"),
        (_row(0, name=""), "name", "''"),
        (_row(0, name="a" * 257), "name_bytes", None),
        (_row(0, name=3), "form", "manifest.weights.0.name"),
        (_row(0, dtype="int8"), "form", "manifest.weights.0.dtype"),
        (_row(0, count=0), "count", "a.weight"),
        (_row(0, count=-3), "count", "a.weight"),
        (_row(0, count=3.0), "form", "manifest.weights.0.count"),
        (_row(0, count=120_001), "count", "a.weight"),
        (_row(0, count=4), "shape", "indices"),
        (_row(0, first_block=1), "first_block", "a.weight"),
        (_row(1, first_block=0), "first_block", "c.weight"),
        (_row(0, shape=[]), "shape", "a.weight"),
        (_row(0, shape=[0, 4]), "shape", "a.weight"),
        (_row(0, shape=[-300, -400]), "shape", "a.weight"),
        (_row(0, shape=[1] * 9), "rank", "a.weight"),
        (_row(0, shape=[1 << 62] * 50_000), "rank", "a.weight"),  # their product would take seconds
        (_row(0, shape=[10**4299] * 2), "form", "manifest.weights.0.shape.0"),  # and this one has too many digits
        (_row(0, count=10**4299), "form", "manifest.weights.0.count"),
        (_row(0, shape=[1 << 30, 1 << 30]), "dimension", "a.weight"),
        (_row(1, shape=[1 << 40]), "shape", "offsets"),
        (_row(0, extra=1), "form", "manifest.weights.0.extra"),
        (_field(weights=[]), "weights", "manifest"),
        (_field(format="shira.adapter.v2"), "form", "manifest.format"),
        (_field(values_dtype="float64"), "form", "manifest.values_dtype"),
        (_field(base="0" * 64), "digest", "manifest.base"),
        (_field(index_set=NO_DIGEST), "digest", "manifest.index_set"),
        (_field(values=NO_DIGEST), "digest", "manifest.values"),
        (_field(more=1), "form", "manifest.more"),
        (lambda _, manifest: manifest.pop("base"), "form", "manifest.base"),
    ],
)
def test_any_field_or_entry_that_is_wrong_is_refused_by_name(
    tmp_path: Path, path: Path, edit: Edit, check: str, tensor: str | None
) -> None:
    tensors, metadata = native_parts(path)
    manifest = json.loads(metadata["shira"])
    edit(tensors, manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(write_native(tmp_path / "bad", tensors, text), base=None)
    assert caught.value.check == check
    assert tensor is None or caught.value.tensor == tensor
    assert caught.value.expected
    assert caught.value.got
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "respell",
    [
        lambda text: text.replace(",", ", "),
        lambda text: text + " ",
        lambda text: text.replace('"base":', '"base":"x","base":'),
        lambda text: text.replace("a.weight", "\\u0061.weight"),
    ],
)
def test_a_manifest_has_one_spelling(tmp_path: Path, path: Path, respell: Callable[[str], str]) -> None:
    tensors, metadata = native_parts(path)
    with pytest.raises(AdapterRejected, match="canonical"):
        read_adapter(write_native(tmp_path / "bad", tensors, respell(metadata["shira"])), base=None)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, '"\ud83d"', "1" * 5000, "{}"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, path: Path, text: str) -> None:
    tensors, _ = native_parts(path)
    text = text.encode("utf-8", "replace").decode()
    with pytest.raises(AdapterRejected):
        read_adapter(write_native(tmp_path / "bad", tensors, text), base=None)


def test_a_file_without_a_manifest_is_refused(tmp_path: Path, path: Path) -> None:
    tensors, _ = native_parts(path)
    write_native(tmp_path / "bad", tensors, "{}")
    data = (tmp_path / "bad").read_bytes().replace(b'"shira"', b'"other"')
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(AdapterRejected, match="shira"):
        read_adapter(tmp_path / "bad", base=None)


def _two_rows_swapped() -> Adapter:
    table = build_table(
        [("c.weight", SHAPES["c.weight"], "bfloat16", 1), ("b.weight", SHAPES["b.weight"], "bfloat16", 1)]
    )
    index_set = build_index_set(table, torch.tensor([0, 1, 2]), torch.tensor([5, 6], dtype=torch.uint16))
    return build_adapter(base=BASE, index_set=index_set, values=torch.ones(2))


def test_rows_out_of_order_are_refused_even_with_true_digests(tmp_path: Path) -> None:
    write_adapter(_two_rows_swapped(), tmp_path / "a")
    with pytest.raises(AdapterRejected, match=r"b\.weight: order"):
        read_adapter(tmp_path / "a", base=None)


@pytest.mark.parametrize(
    ("base", "check"),
    [
        (description(fingerprint=Fingerprint(NO_DIGEST)), "base"),
        (description({"a.weight": (300, 400)}), "weight"),
        (description({**SHAPES, "c.weight": (32, 64)}), "shape"),
        (description(dtype="float32"), "dtype"),
    ],
)
def test_an_adapter_of_another_base_is_refused(path: Path, base: Any, check: str) -> None:
    with pytest.raises(BaseMismatch) as caught:
        read_adapter(path, base=base)
    assert caught.value.check == check


@pytest.mark.parametrize("card", ["[]", "{", '{"a":NaN}', '{"a":1,"a":1}', "[" * 17 + "]" * 17, '{"a":"\\ud800"}'])
def test_a_card_that_is_no_plain_object_is_refused(tmp_path: Path, path: Path, card: str) -> None:
    tensors, metadata = native_parts(path)
    with pytest.raises(AdapterRejected, match="card"):
        read_adapter(write_native(tmp_path / "bad", tensors, metadata["shira"], card=card), base=None)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(file_bytes=100),
        Limits(header_bytes=100),
        Limits(tensors=2),
        Limits(weights=1),
        Limits(entries=6),
        Limits(rank=1),
        Limits(name_bytes=7),
        Limits(card_bytes=5),
    ],
)
def test_every_limit_is_refused_by_its_name(tmp_path: Path, limits: Limits) -> None:
    write_adapter(sample_adapter(), tmp_path / "a", card={"k": 1})
    with pytest.raises(LimitExceeded) as caught:
        read_adapter(tmp_path / "a", base=None, limits=limits)
    default = Limits()
    changed = [name for name in Limits.__slots__ if getattr(limits, name) != getattr(default, name)]
    assert [caught.value.check] == changed


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        write_adapter(sample_adapter(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(sample_adapter(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_in_the_file_is_the_one_that_is_hashed(path: Path) -> None:
    adapter = sample_adapter()
    _, metadata = native_parts(path)
    assert metadata["shira"].encode() == manifest_json(
        base=adapter.base, index_set=adapter.index_set, values=adapter.values_digest, values_dtype="float32"
    )
