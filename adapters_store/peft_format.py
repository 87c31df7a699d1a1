"""PEFT's SHiRA checkpoints, read without PEFT: two files, or the single file that diffusers writes.

Per adapted linear layer ``<module>.shira_indices`` (2, k) row and column (int32; float32 when saved on Windows) and
``<module>.shira_weight`` (k,), the deltas; PEFT prefixes both with ``base_model.model.``. In the single form the config
is JSON under the metadata key ``lora_adapter_metadata``. A config from a client is data: nothing in it is looked up,
imported or fetched. A pipeline's ``save_lora_weights`` puts the component before each name and each key of the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from adapters_store.adapter import TORCH_DTYPES, DTypeName, build_adapter
from adapters_store.base import BaseDescription, BaseWeight
from adapters_store.base_names import find_weight
from adapters_store.container import DEFAULT_LIMITS, Header, Limits, map_file, read_header, tensor_at
from adapters_store.container.header import Buffer, TensorSpan
from adapters_store.errors import AdapterRejected, BaseMismatch
from adapters_store.format import ParsedUpload, Positions, pack_positions
from adapters_store.format.manifest import check_table
from adapters_store.format.native import MANIFEST_KEY, parse_native
from adapters_store.format.scan import check_values
from adapters_store.format.tensors import VALUE_DTYPES
from adapters_store.peft_config import check_config

DIFFUSERS_KEY = "lora_adapter_metadata"
PREFIX = "base_model.model."
INDICES_SUFFIX = ".shira_indices"
VALUES_SUFFIX = ".shira_weight"
_MAX_EXACT_FLOAT32 = 1 << 24


def read_peft(
    config_path: Path, weights_path: Path, *, base: BaseDescription, limits: Limits = DEFAULT_LIMITS
) -> ParsedUpload:
    """The two files of a PEFT checkpoint, fully validated against ``base`` by names and shapes (``base_verified`` is
    false: they carry no fingerprint). Entries are sorted here. Raises AdapterRejected, LimitExceeded, BaseMismatch,
    OSError."""
    with config_path.open("rb") as file:
        text = file.read(limits.config_bytes + 1)
    check_config(text, "adapter_config.json", limits)
    buffer = map_file(weights_path, limits)
    return _parse_layers(buffer, read_header(buffer, limits), base, limits)


def read_single_file(path: Path, *, base: BaseDescription, limits: Limits = DEFAULT_LIMITS) -> ParsedUpload:
    """A native file, or the single file that diffusers' ``save_lora_adapter`` writes: its metadata tell which.

    Raises as ``read_adapter`` and ``read_peft``."""
    buffer = map_file(path, limits)
    header = read_header(buffer, limits)
    if MANIFEST_KEY in header.metadata:
        return parse_native(buffer, header, base=base, limits=limits)
    if DIFFUSERS_KEY in header.metadata:
        check_config(header.metadata[DIFFUSERS_KEY].encode(), DIFFUSERS_KEY, limits, components=base.components)
        return _parse_layers(buffer, header, base, limits)
    raise AdapterRejected(
        "metadata",
        tensor="__metadata__",
        expected=f"the key {MANIFEST_KEY!r} (native) or {DIFFUSERS_KEY!r} (diffusers)",
        got="neither; the files of a PEFT checkpoint are uploaded together, as config and weights, and a pipeline's "
        "save_lora_weights has to be given the config (unet_lora_adapter_metadata)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    weight: BaseWeight
    indices: TensorSpan
    values: TensorSpan


def _parse_layers(buffer: Buffer, header: Header, base: BaseDescription, limits: Limits) -> ParsedUpload:
    layers = _pair_layers(header, base, limits)
    _check_one_dtype(layers)
    limits.check("entries", sum(layer.values.numel for layer in layers))
    positions: list[Positions] = []
    sorted_values: list[Tensor] = []
    for layer in layers:
        weight = layer.weight
        flat, order = _sorted_positions(tensor_at(buffer, layer.indices), layer.indices.name, weight)
        positions.append(Positions(name=weight.name, shape=weight.shape, dtype=_adaptable(weight), flat=flat))
        values = tensor_at(buffer, layer.values)
        check_values(values, tensor=layer.values.name)
        sorted_values.append(values[order])
    index_set = pack_positions(positions)
    check_table(index_set.table, limits)
    all_values = torch.cat(sorted_values)
    adapter = build_adapter(base=base.fingerprint, index_set=index_set, values=all_values)
    return ParsedUpload(adapter=adapter, card=None, base_verified=False)


def _pair_layers(header: Header, base: BaseDescription, limits: Limits) -> list[_Layer]:
    """The layers in ascending order of the weight's name."""
    found: dict[str, dict[str, TensorSpan]] = {}
    for name, span in header.tensors.items():
        suffix = next((suffix for suffix in (INDICES_SUFFIX, VALUES_SUFFIX) if name.endswith(suffix)), None)
        if suffix is None:
            raise AdapterRejected(
                "tensors", tensor=ascii(name[:120]), expected=f"names ending in {INDICES_SUFFIX} or {VALUES_SUFFIX}",
                got="a full tensor or one of another adapter type",
            )  # fmt: skip
        weight_name = _weight_name(name.removesuffix(suffix), base)
        if suffix in found.setdefault(weight_name, {}):
            raise AdapterRejected("unique", tensor=ascii(name[:120]), expected="each layer once", got="the layer twice")
        found[weight_name][suffix] = span
    limits.check("weights", len(found))
    if not found:
        raise AdapterRejected("tensors", tensor=None, expected="at least one adapted layer", got="no tensors")
    layers: dict[str, _Layer] = {}
    for weight_name in sorted(found):
        pair = found[weight_name]
        if len(pair) != 2:
            missing = ({INDICES_SUFFIX, VALUES_SUFFIX} - pair.keys()).pop()
            raise AdapterRejected(
                "tensors", tensor=ascii(weight_name[:120]), expected="indices and values", got=f"no {missing}"
            )
        weight = find_weight(weight_name, base)
        if weight.name in layers:  # under two names, with and without its component
            raise AdapterRejected("unique", tensor=weight.name, expected="each layer once", got="the layer twice")
        layers[weight.name] = _Layer(weight=weight, indices=pair[INDICES_SUFFIX], values=pair[VALUES_SUFFIX])
        _check_layer(layers[weight.name])
    return [layers[name] for name in sorted(layers)]


def _weight_name(module: str, base: BaseDescription) -> str:
    """Without PEFT's prefix, which a pipeline's file has behind the component."""
    component, _, rest = module.partition(".")
    if component in base.components:
        return f"{component}.{rest.removeprefix(PREFIX)}.weight"
    return module.removeprefix(PREFIX) + ".weight"


def _check_layer(layer: _Layer) -> None:
    """Dtypes and shapes, before any entry is read."""
    weight, indices, values = layer.weight, layer.indices, layer.values
    if len(weight.shape) != 2:
        raise BaseMismatch(
            "shape", tensor=weight.name, expected="a 2-D weight", got=f"{list(weight.shape)} in the base"
        )
    if indices.dtype not in {"I32", "F32"}:
        raise AdapterRejected("dtype", tensor=indices.name, expected="I32 or F32", got=indices.dtype)
    if values.dtype not in VALUE_DTYPES:
        raise AdapterRejected("dtype", tensor=values.name, expected=" or ".join(VALUE_DTYPES), got=values.dtype)
    if len(values.shape) != 1 or not 1 <= values.numel <= weight.shape[0] * weight.shape[1]:
        raise AdapterRejected(
            "shape",
            tensor=values.name,
            expected=f"1 to {weight.shape[0] * weight.shape[1]} values",
            got=str(list(values.shape)),
        )
    if indices.shape != (2, values.numel):
        raise AdapterRejected(
            "shape", tensor=indices.name, expected=str([2, values.numel]), got=str(list(indices.shape))
        )


def _sorted_positions(indices: Tensor, name: str, weight: BaseWeight) -> tuple[Tensor, Tensor]:
    """Ascending flat positions int64 (k,), and the order of the file's entries that makes them so."""
    if indices.dtype == torch.float32:
        if max(weight.shape) > _MAX_EXACT_FLOAT32:
            raise AdapterRejected("dtype", tensor=name, expected="I32 for a dimension above 2^24", got="F32")
        bad = ~(indices.isfinite() & (indices == indices.trunc()))
        if bool(bad.any()):
            _reject_entry("integral", name, "whole numbers", indices, bad)
    limits = torch.tensor(weight.shape).unsqueeze(1)  # (2, 1)
    outside = (indices < 0) | (indices >= limits)
    if bool(outside.any()):
        _reject_entry("range", name, f"rows below {weight.shape[0]}, columns below {weight.shape[1]}", indices, outside)
    rows, columns = indices.to(torch.int64)
    flat, order = (rows * weight.shape[1] + columns).sort()
    repeated = flat[1:] == flat[:-1]
    if bool(repeated.any()):
        position = int(flat[1:][repeated][0])
        got = f"[{position // weight.shape[1]}, {position % weight.shape[1]}] twice"
        raise AdapterRejected("unique", tensor=name, expected="each position once", got=got)
    return flat, order


def _reject_entry(check: str, name: str, expected: str, indices: Tensor, bad: Tensor) -> NoReturn:
    row, entry = bad.nonzero()[0].tolist()
    got = f"{'row' if row == 0 else 'column'} {indices[row, entry].item()} at entry {entry}"
    raise AdapterRejected(check, tensor=name, expected=expected, got=got)


def _adaptable(weight: BaseWeight) -> DTypeName:
    dtype = weight.adaptable_dtype
    if dtype is None:
        raise BaseMismatch(
            "dtype", tensor=weight.name, expected=" or ".join(TORCH_DTYPES), got=f"{weight.dtype} in the base"
        )
    return dtype


def _check_one_dtype(layers: list[_Layer]) -> None:
    first = layers[0].values.dtype
    for layer in layers:
        if layer.values.dtype != first:
            raise AdapterRejected(
                "dtype", tensor=layer.values.name, expected=f"{first} as in the other layers", got=layer.values.dtype
            )
