"""PEFT's own merges, on nn.Linear modules over the benchmark's weights."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from adapters_store.tools.bench_stack import Case
from adapters_store.tools.bench_timing import Cycle, Step

SHIRA_MERGE, SHIRA_UNMERGE = "PEFT SHiRA merge", "PEFT SHiRA unmerge"
LORA_MERGE, LORA_UNMERGE = "PEFT LoRA r64 merge", "PEFT LoRA r64 unmerge"
LORA_RANK = 64


def is_available() -> bool:
    return importlib.util.find_spec("peft") is not None


def peft_cycles(case: Case) -> list[Cycle]:
    return [
        _merge_cycle(_shira_model(case), SHIRA_MERGE, SHIRA_UNMERGE),
        _merge_cycle(_lora_model(case), LORA_MERGE, LORA_UNMERGE),
    ]


def _merge_cycle(model: Any, merge: str, unmerge: str) -> Cycle:
    return Cycle((Step(label=merge, run=model.merge_adapter), Step(label=unmerge, run=model.unmerge_adapter)))


def _lora_model(case: Case) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        _Linears(case), LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(case.weights))
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.fill_(1e-4)
    return model


def _shira_model(case: Case) -> Any:
    """PEFT makes r(m + n) entries in each weight; they are replaced by those of adapter A, so all move the same."""
    from peft import ShiraConfig, get_peft_model

    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # the default
    config = ShiraConfig(r=1, target_modules=list(case.weights))
    config.mask_fn = _smallest_mask
    model = get_peft_model(_Linears(case), config)
    for (name, weight), flat in zip(case.weights.items(), case.positions[0], strict=True):
        layer = model.base_model.model.get_submodule(name)
        layer.shira_indices["default"] = torch.stack([flat // weight.shape[1], flat % weight.shape[1]]).to(torch.int32)
        layer.shira_weight["default"] = nn.Parameter(torch.full((flat.numel(),), 1e-4))
    return model


def _smallest_mask(base_layer: nn.Linear, r: int, **_: Any) -> Tensor:
    mask = torch.zeros_like(base_layer.weight)
    mask.view(-1)[: r * sum(mask.shape)] = 1
    return mask


class _Linears(nn.Module):
    """One bias-free linear for each weight of the case, over the same memory."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        for name, weight in case.weights.items():
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            self.add_module(name, linear)
