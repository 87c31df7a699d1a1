"""Adapter in, adapter out: between the native file and PEFT's forms without loss, from PEFT's dense types with figures
of what a sparse adapter can keep of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adapters_store.adapter import (
    DTYPE_NAMES,
    TORCH_DTYPES,
    Adapter,
    Digest,
    DTypeName,
    Fingerprint,
    Version,
    build_adapter,
)
from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.errors import TrainingRefused
from adapters_store.format import write_adapter
from adapters_store.peft_format import read_peft, read_single_file
from adapters_store.tools.convert_source import Form, Source, open_source
from adapters_store.tools.linear_weights import linear_weights
from adapters_store.tools.output_file import check_output
from adapters_store.tools.peft_export import CONFIG_FILE, write_peft, write_single_file
from adapters_store.tools.peft_merge import merged_deltas
from adapters_store.tools.peft_types import check_merges
from adapters_store.tools.sparsify import KeptWeight, sparsify

FORMS: tuple[Form, ...] = ("native", "peft", "diffusers")
FAITHFUL_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """``sparsity`` counts for dense types alone. ``values_dtype`` None keeps the source's, float32 for dense types."""

    source: Path
    output: Path
    base_dir: Path
    to: Form = "native"
    sparsity: float = 0.01
    values_dtype: DTypeName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """``kept_share`` is of the squared Frobenius norm of the whole delta, 1 for sparse types; ``weights`` has the same
    for each weight of a dense one. ``is_exact`` when the output holds every entry of the source's delta, none of
    its values rounded beyond fp32. ``warning`` says in words what to expect of an adapter that kept too little."""

    output: Path
    to: Form
    source: Form
    peft_type: str
    source_digest: Digest
    version: Version
    base: Fingerprint
    values_dtype: DTypeName
    num_weights: int
    num_entries: int
    kept_share: float
    is_exact: bool
    warning: str | None
    weights: tuple[KeptWeight, ...]


def convert(options: ConvertOptions) -> ConvertReport:
    """A failure leaves nothing at ``options.output``.

    Raises TrainingRefused for what has no sparse or no PEFT form, AdapterRejected, BaseMismatch, BaseUnreadable,
    StorageFull, OSError."""
    _check_options(options)
    source = open_source(options.source)
    base = describe_checkpoint(options.base_dir)
    if source.is_sparse:
        adapter, card = _read_sparse(source, base)
        weights: tuple[KeptWeight, ...] = ()
    else:
        adapter, weights = _make_sparse(source, base, options)
        card = None
    converted = _with_values(adapter, options.values_dtype)
    report = _report(options, source, converted, weights, are_values_exact=_are_equal(adapter, converted))
    _write(converted, options, card=card or make_card(options, report))
    return report


def make_card(options: ConvertOptions, report: ConvertReport) -> dict[str, object]:
    """What a reader of the file wants to know of its making; no paths of the machine that made it."""
    made: dict[str, object] = {
        "made_by": "shira convert",
        "base": options.base_dir.resolve().name,
        "source_type": report.peft_type,
        "source_digest": report.source_digest,
    }
    if report.weights:
        made |= {"sparsity": options.sparsity, "kept_share": round(report.kept_share, 6)}
    return made


def as_dict(report: ConvertReport) -> dict[str, Any]:
    """The report with each weight's share, for scripts."""
    shares = [{"kept_share": weight.kept_share, "kept_norm_share": weight.kept_share**0.5} for weight in report.weights]
    found = asdict(report)
    found["weights"] = [{**row, **share} for row, share in zip(found["weights"], shares, strict=True)]
    return found | {"kept_norm_share": report.kept_share**0.5}


def render(report: ConvertReport) -> str:
    """For people: a head, one line per weight of a dense source, and the warning last."""
    head = ("output", "to", "source", "peft_type", "version", "values_dtype", "num_entries", "num_weights", "is_exact")
    lines = [f"{key.replace('_', ' '):<14} {getattr(report, key)}" for key in head]
    if report.weights:
        share = f"{report.kept_share:.1%} of the squared norm of the delta, {report.kept_share**0.5:.1%} of the norm"
        lines += [f"{'kept share':<14} {share}", ""]
        lines += [f"{'squared':>7} {'norm':>7} {'entries':>10} {'of':>12}  weight"]
        lines += [
            f"{row.kept_share:>7.1%} {row.kept_share**0.5:>7.1%} {row.count:>10} {row.numel:>12}  {row.name}"
            for row in report.weights
        ]
    if report.warning:
        lines += ["", f"warning: {report.warning}"]
    return "\n".join(lines)


def _read_sparse(source: Source, base: BaseDescription) -> tuple[Adapter, dict[str, object] | None]:
    """Entries and values as they are, and the card if there is one."""
    if source.form == "peft":
        parsed = read_peft(source.weights_path.with_name(CONFIG_FILE), source.weights_path, base=base)
    else:
        parsed = read_single_file(source.weights_path, base=base)
    return parsed.adapter, parsed.card


def _make_sparse(
    source: Source, base: BaseDescription, options: ConvertOptions
) -> tuple[Adapter, tuple[KeptWeight, ...]]:
    check_merges(source.config)
    deltas = merged_deltas(source.weights_path.parent, source.config, base_dir=options.base_dir, base=base)
    return sparsify(deltas, base=base, sparsity=options.sparsity)


def _with_values(adapter: Adapter, dtype: DTypeName | None) -> Adapter:
    if dtype is None or TORCH_DTYPES[dtype] == adapter.values.dtype:
        return adapter
    values = adapter.values.to(TORCH_DTYPES[dtype])
    if not bool(torch.isfinite(values).all()):
        raise TrainingRefused(
            "values_dtype", expected="a dtype that holds every value", got=f"{dtype}, which overflows"
        )
    return build_adapter(base=adapter.base, index_set=adapter.index_set, values=values)


def _are_equal(adapter: Adapter, converted: Adapter) -> bool:
    return torch.equal(adapter.values.double(), converted.values.double())


def _report(
    options: ConvertOptions,
    source: Source,
    adapter: Adapter,
    weights: tuple[KeptWeight, ...],
    *,
    are_values_exact: bool,
) -> ConvertReport:
    energy = sum(weight.energy for weight in weights)
    kept_share = sum(weight.kept_energy for weight in weights) / energy if weights else 1.0
    is_whole = all(weight.count == weight.num_nonzero for weight in weights)
    return ConvertReport(
        output=options.output,
        to=options.to,
        source=source.form,
        peft_type=source.peft_type,
        source_digest=source.digest,
        version=adapter.version,
        base=adapter.base,
        values_dtype=DTYPE_NAMES[adapter.values.dtype],
        num_weights=len(adapter.index_set.table),
        num_entries=adapter.index_set.num_entries,
        kept_share=kept_share,
        is_exact=is_whole and are_values_exact,
        warning=_warning(kept_share),
        weights=weights,
    )


def _warning(kept_share: float) -> str | None:
    """With Δ the delta and Δ' what is kept of it, ‖Δ − Δ'‖² = (1 − share)·‖Δ‖²: below a half, the weights served are
    nearer to those of the base than to those of the source."""
    if kept_share >= FAITHFUL_SHARE:
        return None
    return (
        f"{kept_share:.1%} of the squared norm of the delta is kept: below {FAITHFUL_SHARE:.0%} the weights served are "
        "nearer to the base's than to the source's, and the adapter will hardly behave as its source did; raise the "
        "sparsity, or train a sparse adapter on the same data (shira train)"
    )


def _write(adapter: Adapter, options: ConvertOptions, *, card: dict[str, object]) -> None:
    if options.to == "native":
        write_adapter(adapter, options.output, card=card)
        return
    write = write_peft if options.to == "peft" else write_single_file
    write(
        adapter,
        options.output,
        base_name=options.base_dir.resolve().name,
        linear=linear_weights(options.base_dir),
    )


def _check_options(options: ConvertOptions) -> None:
    if options.to not in FORMS:
        raise TrainingRefused("to", expected=f"one of {', '.join(FORMS)}", got=repr(options.to))
    if options.values_dtype is not None and options.values_dtype not in TORCH_DTYPES:
        raise TrainingRefused("values_dtype", expected=f"one of {', '.join(TORCH_DTYPES)}", got=options.values_dtype)
    if not 0 < options.sparsity <= 1:
        raise TrainingRefused("sparsity", expected="more than 0 and at most 1", got=str(options.sparsity))
    if not options.source.exists():
        raise TrainingRefused("input", expected="an adapter file or folder", got=f"{options.source}: none there")
    if not options.base_dir.is_dir():
        raise TrainingRefused("base", expected="a directory with a checkpoint", got=f"{options.base_dir}: none there")
    if options.to == "peft" and options.output.exists():
        raise TrainingRefused("output", expected="nothing there yet", got=f"{options.output}, which exists")
    check_output(options.output, [options.source, options.base_dir])
