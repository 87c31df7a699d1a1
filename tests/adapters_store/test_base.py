from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.base_files import SHARD_INDEX
from adapters_store.errors import BaseUnreadable


def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {
        "b.weight": torch.randn(4, 6, generator=draw).bfloat16(),
        "a.weight": torch.randn(8, generator=draw),
        "position_ids": torch.arange(5),
    }


def save(folder: Path, shards: dict[str, dict[str, Tensor]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        safetensors.torch.save_file(tensors, folder / name)
    return folder


def test_the_fingerprint_is_the_digest_that_the_specification_spells_out(tmp_path: Path) -> None:
    tensors = weights()
    rows = []
    for name, dtype in (("a.weight", "float32"), ("b.weight", "bfloat16"), ("position_ids", "int64")):
        data = tensors[name].view(torch.uint8).numpy().tobytes()
        rows.append([name, list(tensors[name].shape), dtype, "sha256:" + hashlib.sha256(data).hexdigest()])
    expected = hashlib.sha256(b"shira.base.v1\n" + json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    base = describe_checkpoint(save(tmp_path, {"model.safetensors": tensors}))

    assert base.fingerprint == f"sha256:{expected}"
    assert list(base.weights) == ["a.weight", "b.weight", "position_ids"]
    assert base.weights["b.weight"].shape == (4, 6)
    assert base.weights["b.weight"].dtype == "bfloat16"


def test_how_a_checkpoint_is_split_into_files_does_not_matter(tmp_path: Path) -> None:
    tensors = weights()
    first, second = {"a.weight": tensors.pop("a.weight")}, tensors
    whole = describe_checkpoint(save(tmp_path / "whole", {"model.safetensors": {**first, **second}}))
    split = describe_checkpoint(save(tmp_path / "split", {"x.safetensors": first, "y.safetensors": second}))
    indexed = save(tmp_path / "indexed", {"1.safetensors": first, "2.safetensors": second, "z.safetensors": first})
    weight_map = dict.fromkeys(first, "1.safetensors") | dict.fromkeys(second, "2.safetensors")
    (indexed / SHARD_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert whole == split == describe_checkpoint(indexed)


@pytest.mark.parametrize("change", ["bit", "name", "dtype", "shape"])
def test_one_changed_bit_name_dtype_or_shape_is_another_base(tmp_path: Path, change: str) -> None:
    before = describe_checkpoint(save(tmp_path / "before", {"model.safetensors": weights()}))
    tensors = weights()
    match change:
        case "bit":
            tensors["a.weight"].view(torch.int32)[3] ^= 1
        case "name":
            tensors["a2.weight"] = tensors.pop("a.weight")
        case "dtype":
            tensors["b.weight"] = tensors["b.weight"].view(torch.float16)
        case "shape":
            tensors["b.weight"] = tensors["b.weight"].reshape(6, 4)
    after = describe_checkpoint(save(tmp_path / "after", {"model.safetensors": tensors}))
    assert after.fingerprint != before.fingerprint


def test_a_remembered_description_is_used_while_the_files_stay(tmp_path: Path) -> None:
    folder, cache = save(tmp_path / "model", {"model.safetensors": weights()}), tmp_path / "cache" / "base.json"
    described = describe_checkpoint(folder, cache_file=cache)
    assert describe_checkpoint(folder, cache_file=cache) == described

    cached = json.loads(cache.read_bytes())
    cached["fingerprint"] = "sha256:" + "0" * 64
    cache.write_text(json.dumps(cached))
    assert describe_checkpoint(folder, cache_file=cache).fingerprint == cached["fingerprint"]  # nothing was hashed

    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert describe_checkpoint(folder, cache_file=cache) == described


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1, "files": []}', "\x00"])
def test_a_spoilt_cache_is_made_anew(tmp_path: Path, text: str) -> None:
    folder, cache = save(tmp_path / "model", {"model.safetensors": weights()}), tmp_path / "base.json"
    cache.write_text(text)
    described = describe_checkpoint(folder, cache_file=cache)
    assert isinstance(described, BaseDescription)
    assert json.loads(cache.read_bytes())["fingerprint"] == described.fingerprint


def test_what_cannot_be_described_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseUnreadable, match=r"no \*\.safetensors"):
        describe_checkpoint(tmp_path / "empty")
    twice = save(tmp_path / "twice", {"x.safetensors": weights(), "y.safetensors": weights()})
    with pytest.raises(BaseUnreadable, match="in two files"):
        describe_checkpoint(twice)
    for number, data in enumerate([b"", b"garbage", b"\xff" * 64]):
        folder = tmp_path / f"bad{number}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(BaseUnreadable, match="not a safetensors file"):
            describe_checkpoint(folder)


@pytest.mark.parametrize("names", ['{"a": "../x.safetensors"}', '{"a": "none.safetensors"}', '{"a": 3}', "[]"])
def test_a_shard_index_may_only_name_files_beside_it(tmp_path: Path, names: str) -> None:
    save(tmp_path, {"x.safetensors": weights()})
    save(tmp_path / "model", {"y.safetensors": weights()})
    (tmp_path / "model" / SHARD_INDEX).write_text(f'{{"weight_map": {names}}}')
    with pytest.raises(BaseUnreadable, match="index"):
        describe_checkpoint(tmp_path / "model")
