"""How well the base, adapters and blends of them do on data they were not made from.

Everything is measured with the words that a server would serve: the model in its stored dtype, each blend written into
it as ``applied`` does. A blend is fused once, and a scale multiplies its fused delta: what the file of ``shira fuse``
gives at that scale, and at 1 what the blend itself gives.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from tqdm import tqdm

from adapters_store.adapter import DTYPE_NAMES, TORCH_DTYPES, Adapter, DTypeName, Fingerprint, Version
from adapters_store.base import describe_checkpoint
from adapters_store.errors import BlendRejected
from adapters_store.tools.applied import applied
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer
from adapters_store.tools.evaluate_data import DataSummary, EvalData, load_data, summary_of
from adapters_store.tools.evaluate_options import BlendSpec, EvalOptions, Metric, check_options
from adapters_store.tools.exact_match import count_matches
from adapters_store.tools.fuse_files import fused_adapter
from adapters_store.tools.loss import mean_loss
from adapters_store.tools.native_files import NamedAdapter, read_files

logger = logging.getLogger(__name__)

Kind = Literal["base", "adapter", "blend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """``adapter`` is None for the base; of a blend, its fused delta."""

    name: str
    kind: Kind
    adapter: Adapter | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    subject: Subject
    scale: float
    data: EvalData


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """``loss`` is the mean per predicted token in nats, ``perplexity`` its exponential, ``exact_match`` the share of
    questions answered as expected; None where it was not asked for. The base has scale 0."""

    subject: str
    kind: Kind
    scale: float
    data: str
    loss: float | None
    perplexity: float | None
    num_matched: int | None
    exact_match: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalReport:
    """``adapters`` by the name of the file. ``rows``: the base first, then subject by subject, scale by scale."""

    model: str
    base: Fingerprint
    dtype: DTypeName
    metrics: tuple[Metric, ...]
    adapters: dict[str, Version]
    data: tuple[DataSummary, ...]
    rows: tuple[EvalRow, ...]


def evaluate(options: EvalOptions) -> EvalReport:
    """Writes nothing but the plot, if one is asked for.

    Raises TrainingRefused for options, data or a model that cannot be measured, AdapterRejected and BaseMismatch naming
    the adapter's file, BlendRejected, BaseUnreadable, OSError."""
    check_options(options)
    base = describe_checkpoint(options.model_dir)
    files = read_files(options.adapters, base=base)
    subjects = subjects_of(files, options.blends)
    tokenizer = load_tokenizer(options.model_dir)
    data = load_data(options, tokenizer)
    model = load_causal_lm(options.model_dir, dtype=_dtype(options), device=options.device)
    report = EvalReport(
        model=options.model_dir.name,
        base=base.fingerprint,
        dtype=DTYPE_NAMES[next(model.parameters()).dtype],
        metrics=options.metrics,
        adapters={file.name: file.adapter.version for file in files},
        data=tuple(summary_of(part, options) for part in data),
        rows=tuple(measure(model, tokenizer, subjects, data, options)),
    )
    if options.plot is not None:
        from adapters_store.tools.evaluate_plot import draw

        draw(report, options.plot)
    return report


def subjects_of(files: Sequence[NamedAdapter], blends: Sequence[BlendSpec]) -> list[Subject]:
    """The base, every adapter, every blend. Raises BlendRejected."""
    adapters = {file.name: file.adapter for file in files}
    subjects = [Subject(name="base", kind="base", adapter=None)]
    subjects += [Subject(name=name, kind="adapter", adapter=adapter) for name, adapter in adapters.items()]
    for blend in dict.fromkeys(blends):
        unknown = [name for name, _ in blend.members if name not in adapters]
        if unknown:
            known = ", ".join(adapters) or "no adapter is given"
            raise BlendRejected(f"{blend.title}: expected the name of an adapter ({known}), got {unknown[0]!r}")
        fused = fused_adapter([(adapters[name], scale) for name, scale in blend.members], blend.fusion)
        subjects.append(Subject(name=blend.title, kind="blend", adapter=fused))
    return subjects


def measure(
    model: nn.Module, tokenizer: Any, subjects: Sequence[Subject], data: Sequence[EvalData], options: EvalOptions
) -> Iterator[EvalRow]:
    """Row by row; between two rows the model holds the base, bit for bit."""
    runs = [
        Run(subject=subject, scale=scale, data=part)
        for subject in subjects
        for scale in (dict.fromkeys(options.scales) if subject.adapter else (0.0,))
        for part in data
    ]
    watched = tqdm(runs, desc="measuring", unit="run", disable=not sys.stderr.isatty())
    for run in watched:
        with applied(model, [(run.subject.adapter, run.scale)] if run.subject.adapter else []):
            row = _row(model, tokenizer, run, options)
        if watched.disable:
            logger.info("%s × %g on %s: %s", row.subject, row.scale, row.data, _told(row))
        yield row


def _dtype(options: EvalOptions) -> torch.dtype | Literal["auto"]:
    return "auto" if options.precision == "stored" else TORCH_DTYPES[options.precision]


def _row(model: nn.Module, tokenizer: Any, run: Run, options: EvalOptions) -> EvalRow:
    """Of the model as it is."""
    part = run.data
    loss, num_matched = None, None
    if part.examples is not None:
        loss = mean_loss(model, part.examples, batch_size=options.batch_size)
    if part.questions is not None:
        num_matched = count_matches(
            model, tokenizer, part.questions, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens
        )
    return EvalRow(
        subject=run.subject.name,
        kind=run.subject.kind,
        scale=run.scale,
        data=part.name,
        loss=loss,
        perplexity=None if loss is None else _perplexity(loss),
        num_matched=num_matched,
        exact_match=None if num_matched is None else num_matched / len(part.questions or ()),
    )


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _told(row: EvalRow) -> str:
    figures = {"perplexity": row.perplexity, "exact match": row.exact_match}
    return ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items() if figure is not None)
