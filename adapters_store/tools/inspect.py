"""What is in an adapter file: for a person or a script, without a base model at hand."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.adapter import DTYPE_NAMES, Adapter
from adapters_store.container import DEFAULT_LIMITS, Header, Limits, map_file, read_header, tensor_at
from adapters_store.container.header import Buffer
from adapters_store.errors import AdapterRejected
from adapters_store.format.native import MANIFEST_KEY, ParsedUpload, parse_native
from adapters_store.format.scan import check_values
from adapters_store.format.tensors import VALUE_DTYPES
from adapters_store.peft_format import PREFIX, VALUES_SUFFIX

PEFT_WEIGHTS = "adapter_model.safetensors"


def inspect_file(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Plain JSON values. A native file is validated in full except against a base. Of a PEFT checkpoint (its folder,
    its weights file, or the single file that diffusers writes) only the values can be told: which positions they
    touch, and so the version, depends on the base. Raises AdapterRejected, OSError."""
    path = path / PEFT_WEIGHTS if path.is_dir() else path
    buffer = map_file(path, limits)
    header = read_header(buffer, limits)
    if MANIFEST_KEY in header.metadata:
        found = _native(parse_native(buffer, header, base=None, limits=limits))
    else:
        found = _peft(buffer, header)
    return {"file": path.name, "file_bytes": len(buffer), **found}


def render(found: dict[str, Any]) -> str:
    """The same for people: a head, then one line per weight."""
    lines = [f"{key.replace('_', ' '):<14} {_shown(value)}" for key, value in found.items() if key != "weights"]
    lines += ["", f"{'entries':>10} {'density':>9} {'norm':>10} {'max':>10}  weight"]
    for row in found["weights"]:
        density = f"{row['density']:.3%}" if "density" in row else "?"
        shape = "×".join(map(str, row["shape"])) if "shape" in row else ""
        lines.append(
            f"{row['count']:>10} {density:>9} {row['l2_norm']:>10.4g} {row['max_abs']:>10.4g}  {row['name']} {shape}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _native(parsed: ParsedUpload) -> dict[str, Any]:
    adapter = parsed.adapter
    table = adapter.index_set.table
    num_elements = sum(entry.numel for entry in table)
    return {
        "format": "native",
        "version": adapter.version,
        "base": adapter.base,
        "index_set": adapter.index_set.digest,
        "values": adapter.values_digest,
        **_figures(adapter.values),
        "density": adapter.index_set.num_entries / num_elements,
        "num_weights": len(table),
        "card": parsed.card,
        "weights": list(_weight_rows(adapter)),
    }


def _weight_rows(adapter: Adapter) -> Iterable[dict[str, Any]]:
    index_set = adapter.index_set
    for entry, (start, end) in zip(index_set.table, pairwise(index_set.entry_starts), strict=True):
        yield {
            "name": entry.name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "count": entry.count,
            "density": entry.count / entry.numel,
            **_norms(adapter.values[start:end]),
        }


def _peft(buffer: Buffer, header: Header) -> dict[str, Any]:
    layers: dict[str, Tensor] = {}
    for name, span in sorted(header.tensors.items()):
        if name.endswith(VALUES_SUFFIX) and span.dtype in VALUE_DTYPES and len(span.shape) == 1 and span.numel:
            values = tensor_at(buffer, span)
            check_values(values, tensor=name)
            layers[name.removesuffix(VALUES_SUFFIX).removeprefix(PREFIX) + ".weight"] = values
    if not layers:
        raise AdapterRejected(
            "format", tensor=None, expected="a native adapter or a SHiRA checkpoint of PEFT", got="neither"
        )
    return {
        "format": "peft",
        **_figures(torch.cat([values.float() for values in layers.values()])),
        "values_dtype": " and ".join(sorted({DTYPE_NAMES[values.dtype] for values in layers.values()})),
        "num_weights": len(layers),
        "weights": [{"name": name, "count": values.numel(), **_norms(values)} for name, values in layers.items()],
    }


def _figures(values: Tensor) -> dict[str, Any]:
    return {
        "values_dtype": DTYPE_NAMES[values.dtype],
        "num_entries": values.numel(),
        "num_zero_values": values.numel() - int(values.count_nonzero()),
        **_norms(values),
    }


def _norms(values: Tensor) -> dict[str, float]:
    wide = values.double()
    return {"l2_norm": float(wide.norm()), "max_abs": float(wide.abs().max())}


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
