"""PEFT's form against files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapters_store.errors import AdapterRejected, BaseMismatch, LimitExceeded
from adapters_store.format import Limits, ParsedUpload, unpack_positions, write_adapter
from adapters_store.peft_format import DIFFUSERS_KEY, read_peft, read_single_file
from tests.adapters_store.adapter_files import description, make_adapter, same_bits

CONFIG: dict[str, Any] = {"peft_type": "SHIRA", "r": 1, "modules_to_save": None, "fan_in_fan_out": False}
LAYER = "base_model.model.c"


def layer(
    indices: object = ((3, 1, 1), (7, 31, 0)), values: object = (0.5, 1.0, -2.0), name: str = LAYER
) -> dict[str, Tensor]:
    return {
        f"{name}.shira_indices": indices if isinstance(indices, Tensor) else torch.tensor(indices, dtype=torch.int32),
        f"{name}.shira_weight": values if isinstance(values, Tensor) else torch.tensor(values),
    }


def read(
    tmp_path: Path,
    tensors: dict[str, Tensor],
    config: object = CONFIG,
    *,
    limits: Limits = Limits(),  # noqa: B008
) -> ParsedUpload:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (tmp_path / "config").write_bytes(text)
    safetensors.torch.save_file(tensors, tmp_path / "weights")
    return read_peft(tmp_path / "config", tmp_path / "weights", base=description(), limits=limits)


def rejected(tmp_path: Path, tensors: dict[str, Tensor], config: object = CONFIG) -> AdapterRejected:
    with pytest.raises(AdapterRejected) as caught:
        read(tmp_path, tensors, config)
    assert caught.value.expected
    assert caught.value.got
    assert str(caught.value).isprintable()
    return caught.value


def test_entries_are_sorted_and_the_values_go_with_them(tmp_path: Path) -> None:
    parsed = read(tmp_path, layer())
    ((entry, flat),) = unpack_positions(parsed.adapter.index_set)
    assert entry.name == "c.weight"
    assert flat.tolist() == [32, 63, 103]
    assert parsed.adapter.values.tolist() == [-2.0, 1.0, 0.5]
    assert not parsed.base_verified


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_native_file_of_the_same_deltas_has_the_same_version(tmp_path: Path, dtype: torch.dtype) -> None:
    uploaded = read(tmp_path, layer(values=torch.tensor([0.5, 1.0, -2.0], dtype=dtype))).adapter
    native = make_adapter({"c.weight": [32, 63, 103]}, [-2.0, 1.0, 0.5], dtype=dtype)
    assert uploaded.version == native.version
    write_adapter(native, tmp_path / "native")
    single = read_single_file(tmp_path / "native", base=description())
    assert single.adapter.version == uploaded.version
    assert single.base_verified


def test_whole_floats_are_the_same_indices(tmp_path: Path) -> None:
    floats = torch.tensor([[3.0, 1.0, 1.0], [7.0, 31.0, 0.0]])
    assert read(tmp_path, layer(floats)).adapter.version == read(tmp_path, layer()).adapter.version


def test_layers_are_ordered_by_name_whatever_the_file_does(tmp_path: Path) -> None:
    tensors = {**layer(name="base_model.model.c"), **layer(name="base_model.model.a")}
    adapter = read(tmp_path, tensors).adapter
    assert [entry.name for entry in adapter.index_set.table] == ["a.weight", "c.weight"]
    assert same_bits(adapter.values, torch.tensor([-2.0, 1.0, 0.5, -2.0, 1.0, 0.5]))


@pytest.mark.parametrize(
    ("tensors", "check"),
    [
        (layer(((3, 3, 1), (7, 7, 0))), "unique"),
        (layer(((-1, 1, 1), (7, 31, 0))), "range"),
        (layer(((64, 1, 1), (7, 31, 0))), "range"),
        (layer(((3, 1, 1), (7, 32, 0))), "range"),
        (layer(((2**31 - 1, 1, 1), (7, 31, 0))), "range"),
        (layer(torch.tensor([[3.0, 1.5, 1.0], [7.0, 31.0, 0.0]])), "integral"),
        (layer(torch.tensor([[3.0, float("nan"), 1.0], [7.0, 31.0, 0.0]])), "integral"),
        (layer(torch.tensor([[3.0, float("inf"), 1.0], [7.0, 31.0, 0.0]])), "integral"),
        (layer(torch.tensor([[3.0, -1.0, 1.0], [7.0, 31.0, 0.0]])), "range"),
        (layer(torch.tensor([[3.0, 3e38, 1.0], [7.0, 31.0, 0.0]])), "range"),
        (layer(torch.tensor([[3, 1, 1], [7, 31, 0]])), "dtype"),
        (layer(values=torch.tensor([1.0, 2.0, 3.0]).double()), "dtype"),
        (layer(values=torch.tensor([1, 2, 3])), "dtype"),
        (layer(values=(1.0, float("nan"), 2.0)), "finite"),
        (layer(values=(1.0, float("inf"), 2.0)), "finite"),
        (layer(values=(1.0, 2.0)), "shape"),
        (layer(values=torch.ones(1, 3)), "shape"),
        (layer(torch.zeros(2, 0, dtype=torch.int32), torch.ones(0)), "shape"),
        (layer(torch.zeros(3, 3, dtype=torch.int32)), "shape"),
        (layer(torch.zeros(6, dtype=torch.int32)), "shape"),
        (layer(torch.zeros(2, 2049, dtype=torch.int32), torch.ones(2049)), "shape"),
        (layer(name="base_model.model.nowhere"), "weight"),
        (layer(name="base_model.model.b"), "shape"),
        (layer(name="base_model.model.../../c"), "weight"),
        ({f"{LAYER}.shira_indices": torch.zeros(2, 1, dtype=torch.int32)}, "tensors"),
        ({f"{LAYER}.shira_weight": torch.zeros(1)}, "tensors"),
        ({**layer(), "base_model.model.c.weight": torch.zeros(64, 32)}, "tensors"),
        ({**layer(), "base_model.model.c.lora_A.weight": torch.zeros(64, 32)}, "tensors"),
        ({**layer(), **layer(name="c")}, "unique"),
        ({**layer(), **layer(values=torch.ones(3).half(), name="base_model.model.a")}, "dtype"),
        ({}, "tensors"),
    ],
)
def test_any_entry_or_layer_that_is_wrong_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], check: str
) -> None:
    error = rejected(tmp_path, tensors)
    assert error.check == check
    assert isinstance(error, BaseMismatch) == (check == "weight" or error.expected == "a 2-D weight")


@pytest.mark.parametrize("peft_type", ["LORA", "LOHA", "shira", "", "SHIRA\u202e", "VERA"])
def test_other_adapter_types_are_refused_by_their_name(tmp_path: Path, peft_type: str) -> None:
    error = rejected(tmp_path, layer(), {**CONFIG, "peft_type": peft_type})
    assert error.check == "peft_type"
    assert ascii(peft_type) == error.got


@pytest.mark.parametrize(
    ("config", "check"),
    [
        ({**CONFIG, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({**CONFIG, "modules_to_save": "lm_head"}, "config"),
        ({**CONFIG, "fan_in_fan_out": True}, "fan_in_fan_out"),
        ({**CONFIG, "fan_in_fan_out": "no"}, "config"),
        ({**CONFIG, "peft_type": 7}, "config"),
        ({}, "config"),
        ([], "config"),
        (b"", "json"),
        (b"\xff", "json"),
        (b'{"peft_type":"LORA","peft_type":"SHIRA"}', "json"),
        (b'{"a":' * 100_000, "json_depth"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "json_depth"),
        (b" " * (1 << 20) + b"{}", "config_bytes"),
    ],
)
def test_a_config_that_means_something_else_is_refused(tmp_path: Path, config: object, check: str) -> None:
    assert rejected(tmp_path, layer(), config).check == check


def test_nothing_that_a_config_names_is_looked_up(tmp_path: Path) -> None:
    hostile = {
        **CONFIG,
        "auto_mapping": {"base_model_class": "os.system", "parent_library": "nowhere.at.all"},
        "base_model_name_or_path": "http://169.254.169.254/x",
        "revision": "../../etc/passwd",
    }
    assert read(tmp_path, layer(), hostile).adapter.version == read(tmp_path, layer()).adapter.version


def test_limits_hold_for_peft_files_too(tmp_path: Path) -> None:
    for limits in (Limits(entries=2), Limits(tensors=1), Limits(file_bytes=64), Limits(config_bytes=10)):
        with pytest.raises(LimitExceeded):
            read(tmp_path, layer(), limits=limits)
    two = {**layer(), **layer(name="base_model.model.a")}
    with pytest.raises(LimitExceeded, match="weights"):
        read(tmp_path, two, limits=Limits(weights=1))


def test_a_single_file_is_told_by_its_metadata(tmp_path: Path) -> None:
    tensors = layer(name="c")
    path = tmp_path / "single"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", DIFFUSERS_KEY: json.dumps(CONFIG)})
    assert read_single_file(path, base=description()).adapter.version == read(tmp_path, layer()).adapter.version
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(AdapterRejected, match="config and weights"):
        read_single_file(path, base=description())
    safetensors.torch.save_file(tensors, path, metadata={DIFFUSERS_KEY: '{"peft_type":"LORA"}'})
    with pytest.raises(AdapterRejected, match="LORA"):
        read_single_file(path, base=description())
