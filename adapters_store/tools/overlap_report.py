"""How likely adapters are to disturb each other: every pair of several native files of one base.

AWOR hardly tells disjoint supports from equal ones: supports, signs and the angle between the deltas stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from adapters_store.adapter import Fingerprint, Version
from adapters_store.errors import BlendRejected
from adapters_store.fusion import Overlap, overlap
from adapters_store.tools.native_files import NamedAdapter, read_files
from adapters_store.tools.orthogonality import Orthogonality, SparseMatrix, matrices, orthogonality
from adapters_store.tools.output_file import check_output
from adapters_store.tools.plotting import require_matplotlib

NOT_TOUCHED = Orthogonality(awom=0.0, awor=1.0)  # of a weight that only one of two adapters touches


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapOptions:
    """``plot``: the PNG to draw, if any."""

    adapters: tuple[Path, ...]
    plot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOrthogonality:
    name: str
    awom: float
    awor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOverlap:
    """Counts are of positions. ``weights``: those that either adapter touches. ``awom_mean`` and ``awor_mean`` are over
    them; ``awom_total`` is the root of the sum of their squares, the norm over the whole model."""

    a: str
    b: str
    shared: int
    only_a: int
    only_b: int
    jaccard: float
    sign_conflicts: int
    delta_cosine: float | None
    awom_mean: float
    awom_total: float
    awor_mean: float
    weights: tuple[WeightOrthogonality, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    base: Fingerprint
    versions: dict[str, Version]  # by the name of the file, in the order given
    pairs: tuple[PairOverlap, ...]


def overlap_report(options: OverlapOptions) -> OverlapReport:
    """Raises AdapterRejected for a file that is no native adapter, BlendRejected for adapters that cannot be compared,
    TrainingRefused for a plot that cannot be drawn, OSError."""
    if len(options.adapters) < 2:
        raise BlendRejected(f"nothing to compare: expected at least two adapters, got {len(options.adapters)}")
    if options.plot is not None:
        require_matplotlib()
        check_output(options.plot, options.adapters, field="plot")
    files = read_files(options.adapters)
    pairs = _pairs(files)
    report = OverlapReport(
        base=files[0].adapter.base, versions={file.name: file.adapter.version for file in files}, pairs=pairs
    )
    if options.plot is not None:
        from adapters_store.tools.overlap_plot import draw

        draw(report, options.plot)
    return report


def render(report: OverlapReport) -> str:
    """A table for people, one line per pair."""
    width = max(len(_title(pair)) for pair in report.pairs)
    head = ("shared", "only a", "only b", "Jaccard", "conflicts", "cosine", "AWOM mean", "AWOM total", "AWOR mean")
    lines = [f"{'a × b':<{width}}" + "".join(f"{text:>12}" for text in head)]
    for pair in report.pairs:
        cosine = "–" if pair.delta_cosine is None else f"{pair.delta_cosine:.4f}"
        cells = (
            f"{pair.shared:,}",
            f"{pair.only_a:,}",
            f"{pair.only_b:,}",
            f"{pair.jaccard:.4f}",
            f"{pair.sign_conflicts:,}",
            cosine,
            f"{pair.awom_mean:.4g}",
            f"{pair.awom_total:.4g}",
            f"{pair.awor_mean:.4f}",
        )
        lines.append(f"{_title(pair):<{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def _title(pair: PairOverlap) -> str:
    return f"{pair.a} × {pair.b}"


def _pairs(files: Sequence[NamedAdapter]) -> tuple[PairOverlap, ...]:
    found = {file.name: matrices(file.adapter) for file in files}
    return tuple(
        _pair(a, b, overlap(a.adapter, b.adapter), _weights(found[a.name], found[b.name]))
        for a, b in combinations(files, 2)
    )


def _weights(a: Mapping[str, SparseMatrix], b: Mapping[str, SparseMatrix]) -> tuple[WeightOrthogonality, ...]:
    measured = {name: orthogonality(a[name], b[name]) for name in sorted(a.keys() & b.keys())}
    return tuple(
        WeightOrthogonality(name=name, awom=found.awom, awor=found.awor)
        for name in sorted(a.keys() | b.keys())
        for found in [measured.get(name, NOT_TOUCHED)]
    )


def _pair(a: NamedAdapter, b: NamedAdapter, found: Overlap, weights: tuple[WeightOrthogonality, ...]) -> PairOverlap:
    return PairOverlap(
        a=a.name,
        b=b.name,
        shared=found.shared,
        only_a=found.only_a,
        only_b=found.only_b,
        jaccard=found.shared / (found.shared + found.only_a + found.only_b),
        sign_conflicts=found.sign_conflicts,
        delta_cosine=found.delta_cosine,
        awom_mean=sum(weight.awom for weight in weights) / len(weights),
        awom_total=sum(weight.awom**2 for weight in weights) ** 0.5,
        awor_mean=sum(weight.awor for weight in weights) / len(weights),
        weights=weights,
    )
