"""Several adapter files of one base to one: what a blend would be, as an adapter of its own.

Served at scale 1, the file gives the very words that serving the blend gives (with float32 values; narrower ones are
rounded once more). To that end the members are fused in order of version, as the server does it, and entries whose
fused delta is 0 (members that cancel, what ``ties`` trims) are kept: members of one index set give an adapter on that
very set, which a server switches to and from without a restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from adapters_store.adapter import (
    TORCH_DTYPES,
    Adapter,
    Digest,
    DTypeName,
    Fingerprint,
    IndexSet,
    Version,
    build_adapter,
    build_index_set,
)
from adapters_store.blend import DELTA_METHODS, STEPWISE_METHODS, Blend, BlendMember, Fusion, FusionMethod
from adapters_store.errors import BlendRejected, TrainingRefused
from adapters_store.format import write_adapter
from adapters_store.fusion import Members, fuse
from adapters_store.kernels import get_kernels
from adapters_store.tools.native_files import NamedAdapter, read_files
from adapters_store.tools.output_file import check_output


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseOptions:
    """``scales`` one per adapter; none at all means 1 for each. An existing ``output`` is replaced."""

    adapters: tuple[Path, ...]
    output: Path
    scales: tuple[float, ...] = ()
    fusion: Fusion = field(default_factory=Fusion)
    values_dtype: DTypeName = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMember:
    name: str
    version: Version
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseReport:
    """``is_shared_index_set``: all members have one index set, and the fused adapter has it too."""

    output: Path
    version: Version
    base: Fingerprint
    index_set: Digest
    is_shared_index_set: bool
    members: tuple[FusedMember, ...]
    method: FusionMethod
    density: float | None
    num_weights: int
    num_entries: int
    num_zero_values: int


def fuse_files(options: FuseOptions) -> FuseReport:
    """Writes the fused adapter to ``options.output``; a failure leaves no file behind.

    Raises AdapterRejected for a file that is no native adapter, BlendRejected for what cannot be fused, TrainingRefused
    for the other options, OSError."""
    _check(options)
    files = read_files(options.adapters)
    scales = options.scales or (1.0,) * len(files)
    adapter = fused_adapter(
        [(file.adapter, scale) for file, scale in zip(files, scales, strict=True)],
        options.fusion,
        values_dtype=options.values_dtype,
    )
    report = _report(options, files, scales, adapter)
    write_adapter(adapter, options.output, card=card(report))
    return report


def fused_adapter(members: Members, fusion: Fusion, *, values_dtype: DTypeName = "float32") -> Adapter:
    """The blend of these CPU adapters as one adapter. Raises BlendRejected."""
    if fusion.method in STEPWISE_METHODS:
        raise BlendRejected(f"one adapter is made by one of {', '.join(DELTA_METHODS)}, got {fusion.method}")
    adapters = {adapter.version: adapter for adapter, _ in members}
    blend = Blend(
        members=tuple(BlendMember(version=adapter.version, scale=scale) for adapter, scale in members), fusion=fusion
    )
    ordered = [(adapters[member.version], member.scale) for member in blend.members]
    fused = fuse(ordered, fusion, get_kernels())
    values = fused.delta.to(TORCH_DTYPES[values_dtype])
    num_lost = int((~torch.isfinite(values)).sum())
    if num_lost:
        raise BlendRejected(
            f"{num_lost} of {values.numel()} fused values would leave the range of {values_dtype}; "
            "use smaller scales or float32"
        )
    return build_adapter(
        base=ordered[0][0].base, index_set=_by_content(fused.index_set, ordered), values=values.contiguous()
    )


def card(report: FuseReport) -> dict[str, object]:
    """What a reader of the file wants to know of its making; no paths of the machine that made it."""
    return {
        "made_by": "shira fuse",
        "method": report.method,
        "density": report.density,
        "members": [
            {"name": member.name.rpartition("/")[2], "version": member.version, "scale": member.scale}
            for member in report.members
        ],
    }


def _check(options: FuseOptions) -> None:
    if not options.adapters:
        raise BlendRejected("nothing to fuse: expected at least one adapter")
    if options.scales and len(options.scales) != len(options.adapters):
        raise TrainingRefused(
            "scales", expected=f"{len(options.adapters)}, one per adapter", got=f"{len(options.scales)}"
        )
    if options.values_dtype not in TORCH_DTYPES:
        raise TrainingRefused(
            "values_dtype", expected=f"one of {', '.join(TORCH_DTYPES)}", got=repr(options.values_dtype)
        )
    check_output(options.output, options.adapters)


def _by_content(index_set: IndexSet, members: Members) -> IndexSet:
    """A union is named after the sets it was made of; in a file, a set is named by what it holds."""
    if any(adapter.index_set is index_set for adapter, _ in members):
        return index_set
    return build_index_set(index_set.table, index_set.offsets.contiguous(), index_set.indices.contiguous())


def _report(
    options: FuseOptions, files: Sequence[NamedAdapter], scales: Sequence[float], adapter: Adapter
) -> FuseReport:
    index_set = adapter.index_set
    return FuseReport(
        output=options.output,
        version=adapter.version,
        base=adapter.base,
        index_set=index_set.digest,
        is_shared_index_set=all(file.adapter.index_set.digest == index_set.digest for file in files),
        members=tuple(
            FusedMember(name=file.name, version=file.adapter.version, scale=scale)
            for file, scale in zip(files, scales, strict=True)
        ),
        method=options.fusion.method,
        density=options.fusion.density,
        num_weights=len(index_set.table),
        num_entries=index_set.num_entries,
        num_zero_values=index_set.num_entries - int(adapter.values.count_nonzero()),
    )
