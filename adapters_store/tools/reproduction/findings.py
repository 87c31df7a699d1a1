"""What a reader must not miss and a summary would leave out: where an adapter does worse than none, or than LoRA."""

from __future__ import annotations

from collections.abc import Iterator

from adapters_store.tools.reproduction.fusing import FUSIONS
from adapters_store.tools.reproduction.markdown import signed_spread
from adapters_store.tools.reproduction.plan import DOMAINS
from adapters_store.tools.reproduction.summary import Summary


def findings(summary: Summary) -> str:
    lines = [*_worse_than_base(summary), *_worse_than_lora(summary), *_retrained(summary)]
    return "\n".join(["## Where it does worse", "", *(lines or ["- Nowhere in these cells."])])


def _worse_than_base(summary: Summary) -> Iterator[str]:
    base = summary.base.test
    for method in summary.alone_methods:
        worse = [name for name in DOMAINS if summary.alone_loss(method, name).mean > base[name]]
        if worse:
            yield f"- {method} alone is worse than the base on {', '.join(worse)}."
        if (rise := summary.forgetting(method)).mean > 0:
            yield f"- {method} alone costs the other domains {signed_spread(rise)} on average."
    for method in summary.fused_methods:
        worse_by_fusion = {
            fusion: [name for name in DOMAINS if summary.fused_loss(method, fusion, name).mean > base[name]]
            for fusion in FUSIONS
        }
        listed = [f"{fusion} on {', '.join(worse)}" for fusion, worse in worse_by_fusion.items() if worse]
        if listed:
            yield f"- {method} fused is worse than the base: {'; '.join(listed)}."


def _worse_than_lora(summary: Summary) -> Iterator[str]:
    for method in summary.alone_methods:
        difference = summary.against_lora(method)
        if difference is not None and difference.mean > 0:
            yield f"- {method} alone is worse than LoRA: {signed_spread(difference)}."
    for method in summary.fused_methods:
        differences = {fusion: summary.fused_against_lora(method, fusion) for fusion in FUSIONS}
        listed = [f"{fusion} {signed_spread(by)}" for fusion, by in differences.items() if by and by.mean > 0]
        if listed:
            yield f"- {method} fused is worse than LoRA fused the same way: {', '.join(listed)}."


def _retrained(summary: Summary) -> Iterator[str]:
    for method in summary.fused_methods:
        for seed, cell in summary.fused(method).items():
            if cell.retrained:
                yield (
                    f"- {method}, seed {seed}: fused with adapters trained again, which are not the very ones measured "
                    f"alone: {', '.join(cell.retrained)}."
                )
