"""Mixed execution on a model whose forward is not ours: the linear modules' products, corrected row by row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.kernels import RowGroup, RowKernels, RowPlan

MAX_IN_FEATURES = torch.iinfo(torch.uint16).max + 1  # columns are 16-bit


def linears_of_every_token(model: nn.Module, run: Callable[[], int]) -> list[nn.Linear]:
    """The linear modules that one forward gives exactly the rows of its tokens, once, and whose weight no other module
    uses: not experts, which see some of the rows, nor the head, which sees the last or is the embedding as well.

    ``run`` makes a forward and returns its tokens."""
    seen: dict[nn.Linear, list[int]] = {}

    def see(module: nn.Linear, args: tuple[Tensor], _: Tensor) -> None:
        seen.setdefault(module, []).append(args[0].numel() // module.in_features)

    with _hooked(linears_in(model), see):
        num_tokens = run()
    others = {
        parameter.data_ptr()
        for module in model.modules()
        if module not in seen
        for parameter in module.parameters(recurse=False)
    }
    return [m for m, rows in seen.items() if rows == [num_tokens] and m.weight.data_ptr() not in others]


def linears_in(module: nn.Module) -> list[nn.Linear]:
    """Those whose rows can be corrected."""
    return [each for each in module.modules() if type(each) is nn.Linear and each.in_features <= MAX_IN_FEATURES]


def names_of(model: nn.Module, linears: Collection[nn.Linear]) -> frozenset[str]:
    """The weights' names, all of those they are tied under."""
    storages = {linear.weight.data_ptr() for linear in linears}
    return frozenset(
        name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.data_ptr() in storages
    )


@contextmanager
def corrected(linears: Collection[nn.Linear], groups: Sequence[RowGroup], kernels: RowKernels) -> Iterator[None]:
    """Within it every row of these modules' outputs is that of its own blend. Costs nothing where all are plain.

    ``groups`` cover the rows of the modules' inputs (…, in_features), flattened."""
    if all(group.targets is None for group in groups):
        yield
        return
    plan = RowPlan(groups)

    def correct(module: nn.Linear, args: tuple[Tensor], output: Tensor) -> None:
        y, x = output.view(-1, module.out_features), args[0].reshape(-1, module.in_features)
        kernels.correct_(y, x.contiguous(), module.weight, plan)

    with _hooked(linears, correct):
        yield


@contextmanager
def _hooked(linears: Collection[nn.Linear], hook: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    with ExitStack() as hooks:
        for module in linears:
            hooks.callback(module.register_forward_hook(hook).remove)
        yield
