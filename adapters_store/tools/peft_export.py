"""Adapters in PEFT's SHiRA form: a folder of two files, or the single file of diffusers' ``save_lora_adapter``.

PEFT makes room for r(m + n) entries in every layer, one r for all, before it reads a checkpoint; a file with any other
count does not load there. ``shira`` itself reads any count.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.adapter import Adapter, WeightEntry
from adapters_store.container import TensorPart, container_parts
from adapters_store.durable import make_dir_durably, sync_dir, write_durably
from adapters_store.errors import TrainingRefused
from adapters_store.format import unpack_positions
from adapters_store.peft_format import DIFFUSERS_KEY, INDICES_SUFFIX, PREFIX, VALUES_SUFFIX

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_MAX_DIMENSION = 1 << 31  # indices are int32


def write_peft(adapter: Adapter, folder: Path, *, base_name: str, linear: set[str]) -> None:
    """A folder that ``PeftModel.from_pretrained`` loads onto a causal language model; whole or not at all.

    ``linear`` are the weights of the base that belong to an nn.Linear. ``folder`` must not exist. Raises
    TrainingRefused for an adapter PEFT cannot hold, StorageFull, OSError."""
    config = {**peft_config(adapter, base_name=base_name, linear=linear), "task_type": "CAUSAL_LM"}
    tmp = folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
    make_dir_durably(tmp)
    try:
        weights = container_parts(_tensors(adapter, PREFIX), {"format": "pt"})
        write_durably(tmp / WEIGHTS_FILE, weights, tmp_dir=tmp)
        write_durably(tmp / CONFIG_FILE, [json.dumps(config, indent=2, sort_keys=True).encode()], tmp_dir=tmp)
        tmp.rename(folder)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    sync_dir(folder.parent)


def write_single_file(adapter: Adapter, path: Path, *, base_name: str, linear: set[str]) -> None:
    """As ``write_peft``, in one file without the prefix, the config in the metadata."""
    config = json.dumps(peft_config(adapter, base_name=base_name, linear=linear), indent=2, sort_keys=True)
    parts = container_parts(_tensors(adapter, ""), {"format": "pt", DIFFUSERS_KEY: config})
    write_durably(path, parts, tmp_dir=path.parent)


def peft_config(adapter: Adapter, *, base_name: str, linear: set[str]) -> dict[str, Any]:
    """What ``ShiraConfig`` is made of, ``target_modules`` naming just the layers of the adapter."""
    table = adapter.index_set.table
    for entry in table:
        _check_layer(entry, linear)
    return {
        "peft_type": "SHIRA",
        "r": _common_rank(table),
        "target_modules": [entry.name.removesuffix(".weight") for entry in table],
        "mask_type": "random",  # of the mask that PEFT draws before it reads the one in the file
        "random_seed": None,
        "init_weights": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "base_model_name_or_path": base_name,
        "revision": None,
        "auto_mapping": None,
        "task_type": None,
        "inference_mode": True,
    }


def _check_layer(entry: WeightEntry, linear: set[str]) -> None:
    expected = "the weight of an nn.Linear, all that PEFT's SHiRA adapts"
    if entry.name not in linear or not entry.name.endswith(".weight"):
        raise TrainingRefused("adapter", expected=expected, got=f"{entry.name} {list(entry.shape)}")
    if max(entry.shape) > _MAX_DIMENSION:
        raise TrainingRefused("adapter", expected="dimensions an int32 can count", got=f"{entry.name} {entry.shape}")


def _common_rank(table: tuple[WeightEntry, ...]) -> int:
    rank, rest = divmod(table[0].count, sum(table[0].shape))
    rank = rank if rest == 0 else 0
    for entry in table:
        if rank == 0 or entry.count != rank * sum(entry.shape):
            raise TrainingRefused(
                "adapter",
                expected="r(m + n) entries in every layer with one whole r, all that PEFT can load",
                got=f"{entry.count} in {entry.name}, {entry.count / sum(entry.shape):.4g} times m + n = "
                f"{sum(entry.shape)}" + (f", after r = {rank} in {table[0].name}" if rank else ""),
            )
    return rank


def _tensors(adapter: Adapter, prefix: str) -> list[TensorPart]:
    """The widest dtype first, so that every tensor is aligned; both are in order of name."""
    indices: list[TensorPart] = []
    values: list[TensorPart] = []
    start = 0
    for entry, flat in unpack_positions(adapter.index_set):
        module = prefix + entry.name.removesuffix(".weight")
        indices.append(TensorPart(module + INDICES_SUFFIX, _rows_above_columns(flat, entry.shape[1])))
        values.append(TensorPart(module + VALUES_SUFFIX, adapter.values[start : start + entry.count].contiguous()))
        start += entry.count
    return [*indices, *values]


def _rows_above_columns(flat: Tensor, num_columns: int) -> Tensor:
    return torch.stack([flat // num_columns, flat % num_columns]).to(torch.int32)  # (2, count)
