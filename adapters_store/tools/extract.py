"""Two checkpoints in, adapter file out: the exact sparse difference of a base and a model fine-tuned from it.

Exact means: the word that is served, W0 + V added in fp32 and rounded once to the weight's dtype, is the fine-tuned
weight again. Equality is that of numbers: −0 is 0, so a weight that differs in the sign of a zero alone is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from adapters_store.adapter import TORCH_DTYPES, DTypeName, Fingerprint, Version, build_adapter
from adapters_store.base import describe_checkpoint
from adapters_store.errors import TrainingRefused
from adapters_store.format import Positions, pack_positions, write_adapter
from adapters_store.tools.checkpoint_pair import CheckpointPair
from adapters_store.tools.exact_values import ExactValues, exact_values
from adapters_store.tools.output_file import check_output

WORST_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """``max_density`` is over all floating weights together. ``allow_rounding`` writes the nearest value where none of
    ``values_dtype`` gives the fine-tuned weight again, instead of refusing."""

    base_dir: Path
    finetuned_dir: Path
    output: Path
    values_dtype: DTypeName = "float32"
    max_density: float = 0.05
    allow_rounding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedWeight:
    name: str
    numel: int
    count: int

    @property
    def density(self) -> float:
        return self.count / self.numel


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReport:
    """``num_inexact`` entries are served off the fine-tuned weight, by up to ``largest_error``. ``density`` is over all
    floating weights."""

    output: Path
    version: Version
    base: Fingerprint
    finetuned: Fingerprint
    num_weights: int
    num_entries: int
    density: float
    num_inexact: int
    largest_error: float
    weights: tuple[ChangedWeight, ...]


def extract(options: ExtractOptions) -> ExtractReport:
    """Reads one weight of each checkpoint at a time; a failure leaves no file behind.

    Raises TrainingRefused for checkpoints that do not differ sparsely, BaseUnreadable, StorageFull, OSError."""
    _check_options(options)
    base = describe_checkpoint(options.base_dir)
    finetuned = describe_checkpoint(options.finetuned_dir)
    pair = CheckpointPair(options.base_dir, base, options.finetuned_dir, finetuned)
    difference = _read_difference(pair, options)
    _check_difference(difference, pair, options)
    weights = [row.positions for row in difference.rows]
    adapter = build_adapter(
        base=base.fingerprint,
        index_set=pack_positions(weights),
        values=torch.cat([row.exact.values for row in difference.rows]),
    )
    report = ExtractReport(
        output=options.output,
        version=adapter.version,
        base=base.fingerprint,
        finetuned=finetuned.fingerprint,
        num_weights=len(weights),
        num_entries=adapter.index_set.num_entries,
        density=difference.num_changed / pair.numel,
        num_inexact=sum(row.exact.num_inexact for row in difference.rows),
        largest_error=max(row.exact.largest_error for row in difference.rows),
        weights=tuple(difference.changed),
    )
    write_adapter(adapter, options.output, card=card(options, report))
    return report


def card(options: ExtractOptions, report: ExtractReport) -> dict[str, object]:
    """What a reader of the file wants to know of its making; no paths of the machine that made it."""
    return {
        "made_by": "shira extract",
        "base": options.base_dir.resolve().name,
        "finetuned": options.finetuned_dir.resolve().name,
        "finetuned_fingerprint": report.finetuned,
        "density": round(report.density, 8),
        "inexact_entries": report.num_inexact,
    }


def render(report: ExtractReport) -> str:
    """For people: a head, then one line per weight that changed."""
    head = ("output", "version", "base", "finetuned", "num_entries", "num_weights", "num_inexact", "largest_error")
    lines = [f"{key.replace('_', ' '):<14} {getattr(report, key)}" for key in head]
    lines += [f"{'density':<14} {report.density:.4%} of all elements", "", f"{'density':>9} {'entries':>10}  weight"]
    lines += [f"{weight.density:>9.3%} {weight.count:>10}  {weight.name}" for weight in report.weights]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    positions: Positions
    exact: ExactValues


@dataclass(slots=True, kw_only=True, eq=False)
class _Difference:
    """``rows`` are dropped, and only counts kept, once there are too many entries to be written anyway."""

    changed: list[ChangedWeight] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)

    @property
    def num_changed(self) -> int:
        return sum(weight.count for weight in self.changed)


def _read_difference(pair: CheckpointPair, options: ExtractOptions) -> _Difference:
    difference = _Difference()
    for name, old, new in pair.weights():
        changed = (new != old).flatten().nonzero().flatten()  # NaN differs from everything, itself too
        if changed.numel() == 0:
            continue
        difference.changed.append(ChangedWeight(name=name, numel=old.numel(), count=changed.numel()))
        if difference.num_changed > options.max_density * pair.numel:
            difference.rows.clear()
            continue
        w0, w1 = old.flatten()[changed], new.flatten()[changed]
        _check_finite(name, w0, w1)
        positions = Positions(name=name, shape=tuple(old.shape), dtype=pair.dtype(name), flat=changed)
        exact = exact_values(w0, w1, TORCH_DTYPES[options.values_dtype])
        difference.rows.append(_Row(positions=positions, exact=exact))
    return difference


def _check_difference(difference: _Difference, pair: CheckpointPair, options: ExtractOptions) -> None:
    if not difference.changed:
        raise TrainingRefused("finetuned", expected="a weight that differs from the base", got="none: they are equal")
    density = difference.num_changed / pair.numel
    if density > options.max_density:
        worst = sorted(difference.changed, key=lambda weight: weight.density, reverse=True)[:WORST_SHOWN]
        shown = ", ".join(f"{weight.name} {weight.density:.1%}" for weight in worst)
        raise TrainingRefused(
            "finetuned",
            expected=f"at most {options.max_density:.2%} of {pair.numel} elements changed (max_density)",
            got=f"{density:.2%} in {len(difference.changed)} weights (most in {shown})",
        )
    overflowing = [row for row in difference.rows if not bool(row.exact.values.isfinite().all())]
    if overflowing:
        raise TrainingRefused(
            "values_dtype",
            expected="a dtype that holds every difference",
            got=f"{options.values_dtype}, which overflows in {overflowing[0].positions.name}",
        )
    inexact = [row for row in difference.rows if row.exact.num_inexact]
    if inexact and not options.allow_rounding:
        most = max(inexact, key=lambda row: row.exact.num_inexact)
        raise TrainingRefused(
            "values_dtype",
            expected="values that give the fine-tuned weights again exactly (or --allow-rounding)",
            got=f"{sum(row.exact.num_inexact for row in inexact)} of {difference.num_changed} entries that no "
            f"{options.values_dtype} does, off by up to {max(row.exact.largest_error for row in inexact):.3g}, "
            f"most in {most.positions.name} ({most.exact.num_inexact})",
        )


def _check_finite(name: str, w0: Tensor, w1: Tensor) -> None:
    for which, values in (("base", w0), ("finetuned", w1)):
        num_bad = int((~values.isfinite()).sum())
        if num_bad:
            raise TrainingRefused(which, expected="finite weights", got=f"{num_bad} NaN or infinite in {name}")


def _check_options(options: ExtractOptions) -> None:
    if options.values_dtype not in TORCH_DTYPES:
        raise TrainingRefused("values_dtype", expected=f"one of {', '.join(TORCH_DTYPES)}", got=options.values_dtype)
    if not 0 < options.max_density <= 1:
        raise TrainingRefused("max_density", expected="more than 0 and at most 1", got=str(options.max_density))
    for which, folder in (("base", options.base_dir), ("finetuned", options.finetuned_dir)):
        if not folder.is_dir():
            raise TrainingRefused(which, expected="a directory with a checkpoint", got=f"{folder}: none there")
    check_output(options.output, [options.base_dir, options.finetuned_dir])
