"""The cells as Markdown, to the last digit the same from the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from statistics import fmean

from adapters_store.tools.reproduction.cells import Cell
from adapters_store.tools.reproduction.findings import findings
from adapters_store.tools.reproduction.fusing import FUSIONS
from adapters_store.tools.reproduction.markdown import (
    number,
    number_spread,
    percent_spread,
    signed,
    signed_spread,
    table,
)
from adapters_store.tools.reproduction.plan import DOMAINS, FUSION_ALPHAS, LORA, METHODS, SWEEP_DOMAIN, SWEEP_SEED
from adapters_store.tools.reproduction.summary import Summary

PREAMBLE = "<!-- Rendered by `shira reproduce --report` from the files in cells/. Not to be edited. -->"


def render(cells: Mapping[str, Cell]) -> str:
    if "base" not in cells:
        return f"{PREAMBLE}\n\nNothing has been measured yet.\n"
    summary = Summary(cells)
    sections = [regime(summary), findings(summary), alone(summary), fused(summary), overlap(summary), sweep(summary)]
    return "\n\n".join([PREAMBLE, *(section for section in sections if section)]) + "\n"


def regime(summary: Summary) -> str:
    it = summary.regime
    texts = ", ".join(f"{name} `{digest[:19]}…`" for name, digest in it.texts.items())
    machines = sorted({_machine(cell) for cell in summary.cells.values()})
    versions = sorted({_versions(cell) for cell in summary.cells.values()})
    return "\n".join(
        [
            "## Regime",
            "",
            f"- Model `{it.model}` in {it.precision}, trained values in float32. Adapted: {', '.join(it.targets)}, "
            f"{it.num_weights} weights of {it.num_target_parameters:,} entries.",
            f"- Each run: {it.steps} steps of {it.batch_size} × {it.sequence_length} tokens ({it.num_tokens:,}), "
            f"AdamW, {it.schedule} schedule, no weight decay, gradients clipped to norm 1. "
            f"Each domain: {it.num_validation} validation and "
            f"{it.num_test} test sequences that no run trains on.",
            f"- LoRA: PEFT, rank {it.lora_rank}, alpha {it.lora_alpha}, dropout {it.lora_dropout:g}. SHiRA: sparsity "
            f"{it.sparsity:.4%}, which gives the entries that LoRA has parameters; grad and snip rank by the gradient "
            f"of {it.calibration_examples} of the training sequences.",
            *_not_measured(summary),
            f"- Cells: {len(summary.cells)}. {'; '.join(machines)}. {'; '.join(versions)}.",
            f"- Base `{it.base[:19]}…`; texts {texts}.",
        ]
    )


def _not_measured(summary: Summary) -> list[str]:
    missing = [method.name for method in METHODS if method.name not in summary.alone_methods]
    return [f"- Not measured on all domains: {', '.join(missing)}."] if missing else []


def alone(summary: Summary) -> str:
    if not summary.alone_methods:
        return ""
    base = summary.base.test
    columns = ["method", "seeds", *DOMAINS, "mean", "perplexity", "Δ base", "Δ LoRA", "others forget"]
    rows = [["base", "", *(number(base[name]) for name in DOMAINS), number(fmean(base.values())),
             number(exp(fmean(base.values()))), "", "", ""]]  # fmt: skip
    for method in summary.alone_methods:
        mean = summary.alone_loss(method, None)
        rows.append([
            method,
            str(len(mean.figures)),
            *(number_spread(summary.alone_loss(method, name)) for name in DOMAINS),
            number_spread(mean),
            number(exp(mean.mean)),
            signed(mean.mean - fmean(base.values())),
            _against_lora(summary, method),
            signed(summary.forgetting(method).mean),
        ])  # fmt: skip
        if method == LORA:
            unmerged = summary.alone_loss(method, None, unmerged=True)
            rows.append([
                "lora, not merged",
                str(len(unmerged.figures)),
                *(number_spread(summary.alone_loss(method, name, unmerged=True)) for name in DOMAINS),
                number_spread(unmerged),
                number(exp(unmerged.mean)),
                signed(unmerged.mean - fmean(base.values())),
                "",
                "",
            ])  # fmt: skip
    return "\n".join(
        [
            "## One adapter at a time",
            "",
            "Test loss on the adapter's own domain, nats per token, mean ± standard deviation over seeds. Adapters are "
            "in the bf16 weights, as they are served; *not merged* is LoRA beside them. *Δ LoRA* is seed by seed, "
            "of those that both have. *Others forget*: what the loss on the two other domains rises by.",
            "",
            *table(columns, rows),
            "",
            *_costs(summary),
            "",
            "The seconds of each run are in its cell; they count whatever else the machine was doing, so `shira bench "
            "train` compares speeds.",
            "",
            "![Loss alone](alone.png)",
        ]
    )


def fused(summary: Summary) -> str:
    if not summary.fused_methods:
        return ""
    means = [
        [
            method,
            str(len(summary.fused(method))),
            number(summary.alone_of_fused(method).mean),
            *(number_spread(summary.fused_loss(method, fusion, None)) for fusion in FUSIONS),
            ", ".join(f"{cell.fusions['sum-tuned'].alpha:g}" for cell in summary.fused(method).values()),
        ]
        for method in summary.fused_methods
    ]
    kept = [
        [method, *(percent_spread(summary.gain_kept(method, fusion)) for fusion in FUSIONS)]
        for method in summary.fused_methods
    ]
    detail = [
        [method, fusion, *(_against_base(summary, method, fusion, name) for name in DOMAINS)]
        for method in summary.fused_methods
        for fusion in FUSIONS
    ]
    alphas = ", ".join(f"{alpha:g}" for alpha in FUSION_ALPHAS)
    return "\n".join(
        [
            "## Three adapters at once",
            "",
            "The three domains' adapters of one method and seed in the weights together; mean test loss over the "
            f"domains (base {number(fmean(summary.base.test.values()))}). *sum* at α = 1; *sum-tuned* at the α of "
            f"{alphas} with the lowest validation loss, one for all three; *ties* trims nothing. LoRA's ΔW is fused by "
            "the same rules. Where all three touch the same entries (LoRA, wm, wm-dora, struct), *ram* is *mean*.",
            "",
            *table(["method", "seeds", "alone", *FUSIONS, "α tuned, by seed"], means),
            "",
            "Of the gain of each adapter alone, kept: (base − fused) / (base − alone), of the means. Negative: worse "
            "than no adapter.",
            "",
            *table(["method", *FUSIONS], kept),
            "",
            "By domain, against the base (mean over seeds; bold: worse than the base):",
            "",
            *table(["method", "fusion", *DOMAINS], detail),
            "",
            "![Loss fused](fused.png)",
            "",
            "![Loss by alpha](alpha.png)",
        ]
    )


def overlap(summary: Summary) -> str:
    rows = [
        [
            method,
            " × ".join(pair.domains),
            f"{pair.shared / (pair.shared + pair.only_a):.2%}",
            f"{pair.sign_conflicts / pair.shared:.1%}" if pair.shared else "–",
            "–" if pair.delta_cosine is None else f"{pair.delta_cosine:+.4f}",
            f"{pair.awom:.4g}",
            f"{pair.awor:.4f}",
        ]
        for method in summary.fused_methods
        for pair in next(iter(summary.fused(method).values())).pairs
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "## How much they are in each other's way",
            "",
            "Of the first seed. *Shared*: of the first adapter's positions, those that the second touches too. "
            "*Conflicts*: of the shared, those where the deltas have opposite signs. *Cosine* of the two deltas over "
            "all weights. *AWOM*: ‖A₁ᵀA₂‖ over all weights; it grows with the size of the deltas, so that it compares "
            "pairs of one method. *AWOR*: 1 − nnz(A₁ᵀA₂) / m², the mean over the weights.",
            "",
            *table(["method", "pair", "shared", "conflicts", "cosine", "AWOM", "AWOR"], rows),
        ]
    )


def sweep(summary: Summary) -> str:
    rates = sorted({rate for losses in summary.sweeps.values() for rate in losses})
    rows = []
    for method, losses in summary.sweeps.items():
        best = min((loss for loss in losses.values() if loss is not None), default=None)
        rows.append([method, *(_swept(losses, rate, best) for rate in rates)])
    if not rows:
        return ""
    borrowed = ", ".join(f"{m.name} that of {m.rate_of}" for m in METHODS if not m.is_swept)
    return "\n".join(
        [
            "## Learning rates",
            "",
            f"Validation loss on {SWEEP_DOMAIN} with seed {SWEEP_SEED}, which the grid does not use; the best (bold) "
            f"is the method's rate everywhere. Rates beyond the first three were tried until the best had a worse one "
            f"on either side. Not swept: {borrowed}.",
            "",
            *table(["method", *(f"{rate:g}" for rate in rates)], rows),
        ]
    )


def _costs(summary: Summary) -> list[str]:
    rows = []
    for method in summary.alone_methods:
        cells = [cell for seed in summary.alone_seeds(method) for cell in summary.alone(method, seed).values()]
        rows.append([
            method,
            f"{cells[0].num_parameters:,}",
            f"{cells[0].num_touched / summary.regime.num_target_parameters:.3%}",
            ", ".join(f"{rate:g}" for rate in sorted({cell.learning_rate for cell in cells})),
        ])  # fmt: skip
    return table(["method", "trained parameters", "weights touched", "learning rate"], rows)


def _against_lora(summary: Summary, method: str) -> str:
    difference = summary.against_lora(method)
    return "" if difference is None else signed_spread(difference)


def _against_base(summary: Summary, method: str, fusion: str, domain: str) -> str:
    difference = summary.fused_loss(method, fusion, domain).mean - summary.base.test[domain]
    return f"**{signed(difference)}**" if difference > 0 else signed(difference)


def _swept(losses: Mapping[float, float | None], rate: float, best: float | None) -> str:
    if rate not in losses:
        return ""
    loss = losses[rate]
    if loss is None:
        return "diverged"
    return f"**{number(loss)}**" if loss == best else number(loss)


def _machine(cell: Cell) -> str:
    device, threads = cell.machine["device"], cell.machine["num_threads"]
    return f"{cell.machine['cpu']}, threads: {threads}" if device == "cpu" else str(device)


def _versions(cell: Cell) -> str:
    return ", ".join(f"{name} {version}" for name, version in cell.versions.items())
