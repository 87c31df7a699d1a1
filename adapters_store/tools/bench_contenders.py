"""Who takes part: our kernels, the floor, and what torch can do; PEFT has a file of its own.

All work on the same weights. Every cycle leads back to the weights it began with, but for the LoRA additions, whose
sums do not matter to the time they take.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adapters_store.kernels import Kernels
from adapters_store.tools.bench_stack import Case
from adapters_store.tools.bench_timing import Cycle, Step

EXCHANGE, FLOOR, IDEAL = "exchange", "floor", "ideal dense fuse (W read and written once)"
SWITCH, SAME_SET = "A→B, one pass", "A→B, same index set"
RESTORE, STAGE = "restore", "stage (a new blend's words)"
LORA_RANKS = (32, 64)


def our_cycles(case: Case, kernels: Kernels) -> list[Cycle]:
    a, b = case.bound_a, case.bound_b
    delta = torch.full((a.num_entries,), 0.01)
    words, other_words = (kernels.stage(a, scale * delta).words for scale in (1, 2))
    b_words = kernels.stage(b, torch.full((b.num_entries,), 0.01)).words
    displaced, b_displaced = torch.zeros_like(words), torch.zeros_like(b_words)

    def enter() -> None:
        kernels.exchange(a, words, displaced)

    def leave() -> None:
        kernels.overwrite(a, displaced)

    return [
        Cycle((Step(label=EXCHANGE, run=enter), Step(label=RESTORE, run=leave))),
        Cycle(
            (
                Step(label=None, run=enter),
                Step(label=SWITCH, run=lambda: kernels.switch(a, displaced, b, b_words, b_displaced)),
                Step(label=None, run=lambda: kernels.overwrite(b, b_displaced)),
            )
        ),
        Cycle(
            (
                Step(label=None, run=enter),
                Step(label=SAME_SET, run=lambda: kernels.overwrite(a, other_words)),
                Step(label=None, run=leave),
            )
        ),
        Cycle((Step(label=STAGE, run=lambda: kernels.stage(a, delta)),)),
    ]


def floor_cycle(case: Case, kernels: Kernels) -> Cycle:
    """The least traffic that an exchange can have: one word of every touched cache line read and written, the index
    and word bytes read, the displaced bytes written. Made by the exchange itself over one entry per line, and plain
    copies of what the entries beyond one per line add to the streams."""
    a, lines = case.bound_a, case.bound_lines
    words = kernels.stage(lines, torch.zeros(lines.num_entries)).words  # what is there already
    displaced = torch.zeros_like(words)
    num_rest = a.num_entries - lines.num_entries
    rest = torch.zeros(a.words_bytes - lines.words_bytes, dtype=torch.uint8)
    rest_displaced = torch.zeros_like(rest)
    rest_indices = a.index_set.indices[:num_rest].view(torch.int16)

    def run() -> None:
        kernels.exchange(lines, words, displaced)
        rest_displaced.copy_(rest)
        rest_indices.max()

    return Cycle((Step(label=FLOOR, run=run),))


def torch_cycles(case: Case) -> list[Cycle]:
    weights = list(case.weights.values())
    integer = torch.int16 if weights[0].element_size() == 2 else torch.int32
    flat = [weight.view(-1) for weight in weights]
    values = [weight[positions] for weight, positions in zip(flat, case.positions[0], strict=True)]

    def rewrite_all() -> None:
        for weight in weights:
            weight.view(integer).bitwise_xor_(1)

    def scatter() -> None:
        for weight, positions, value in zip(flat, case.positions[0], values, strict=True):
            weight.scatter_(0, positions, value)

    return [
        Cycle((Step(label=IDEAL, run=rewrite_all), Step(label=None, run=rewrite_all))),
        *(Cycle((Step(label=f"LoRA r{rank} addmm_ in place", run=lora_fuse(weights, rank)),)) for rank in LORA_RANKS),
        Cycle((Step(label="torch scatter_ (write only)", run=scatter),)),
    ]


def lora_fuse(weights: list[Tensor], rank: int) -> Callable[[], None]:
    factors = [
        (
            torch.full((weight.shape[0], rank), 1e-4, dtype=weight.dtype),
            torch.full((rank, weight.shape[1]), 1e-4, dtype=weight.dtype),
        )
        for weight in weights
    ]

    def fuse() -> None:
        for weight, (up, down) in zip(weights, factors, strict=True):
            weight.addmm_(up, down)

    return fuse
