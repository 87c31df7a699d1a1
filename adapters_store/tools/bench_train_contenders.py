"""Who trains against whom: ours, PEFT's LoRA and SHiRA, and ours without the sampled product.

All freeze the base and train r(rows + columns) parameters of every target, in fp32 unless their name says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from adapters_store.adapter import IndexSet
from adapters_store.errors import TrainingRefused
from adapters_store.format import unpack_positions
from adapters_store.tools.checkpoint import load_causal_lm
from adapters_store.tools.masks import build_mask
from adapters_store.tools.sparse_conv import weight_of_delta
from adapters_store.tools.sparse_linear import SparseLinear
from adapters_store.tools.sparse_parametrisation import SparseParametrisation, layer_of_weight
from adapters_store.tools.train_options import TARGETS, Device, Precision

LEARNING_RATE = 1e-5
Contender = Literal[
    "SHiRA",
    "PEFT LoRA",
    "PEFT LoRA, bfloat16 factors",
    "PEFT SHiRA",
    "SHiRA, dense gradient then gather",
]
REFERENCE: Contender = "PEFT LoRA"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCase:
    """What is trained on what. The base is that of ``model_dir``, or a random Llama of about ``random_params``."""

    model_dir: Path | None
    random_params: int | None = None
    rank: int = 4
    batch_size: int = 4
    sequence_length: int = 128
    precision: Precision = "bfloat16"
    device: Device = "cpu"
    threads: int = 1
    seed: int = 0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        """Raises TrainingRefused."""
        if (self.model_dir is None) == (self.random_params is None):
            raise TrainingRefused("model", expected="a directory or a number of random parameters", got="both or none")
        if self.model_dir is not None and not self.model_dir.is_dir():
            raise TrainingRefused(
                "model", expected="a directory with a checkpoint", got=f"{self.model_dir}: none there"
            )
        if find_spec("peft") is None:
            raise TrainingRefused("peft", expected="pip install 'shira-server[bench]'", got="not installed")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TrainingRefused("device", expected="cpu, for torch sees no CUDA device", got="'cuda'")


def contenders(case: TrainCase) -> list[Contender]:
    """With a bfloat16 base also LoRA in the base's dtype: cheaper factors, though steps that a bfloat16 cannot take
    are lost."""
    return [name for name in get_args(Contender) if case.precision == "bfloat16" or "bfloat16" not in name]


def load_base(case: TrainCase) -> nn.Module:
    """In training mode, every page of its weights in memory. Raises TrainingRefused."""
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    if case.model_dir is not None:
        model = load_causal_lm(case.model_dir, dtype=dtype, device=case.device)
    else:
        assert case.random_params is not None
        model = random_llama(case.random_params, dtype=dtype, seed=case.seed).to(case.device)
    model.train().requires_grad_(False)
    for parameter in model.parameters():
        parameter.view(-1)[::1024].sum()  # a mapped file is read when it is touched
    return model


def random_llama(num_params: int, *, dtype: torch.dtype, seed: int, vocabulary: int = 32_000) -> nn.Module:
    """Nearest to ``num_params``: layers of 128 hidden units for each layer there is."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def size(layers: int) -> int:
        hidden = 128 * layers
        return layers * 12 * hidden**2 + vocabulary * hidden  # attention 4 h², three h × 8h/3 of the MLP

    num_layers = min(range(1, 128), key=lambda layers: abs(size(layers) - num_params))
    hidden = 128 * num_layers
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=-(-8 * hidden // 3 // 64) * 64,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
    )
    model: nn.Module = LlamaForCausalLM(config).to(dtype)
    return model


def choose_entries(case: TrainCase, model: nn.Module) -> IndexSet:
    """The largest weights of every target, r(rows + columns) of each. Raises TrainingRefused."""
    weights = [
        (name, parameter.detach().cpu())
        for name, parameter in model.named_parameters()
        if name.endswith(".weight") and name.split(".")[-2] in case.targets
    ]
    try:
        if not weights:
            raise ValueError("none of the model's weights")
        return build_mask(weights, "wm", rank=case.rank)
    except ValueError as error:
        raise TrainingRefused("targets", expected="weights that can carry the mask", got=str(error)) from error


def attach(name: Contender, case: TrainCase, model: nn.Module, index_set: IndexSet) -> nn.Module:
    """``model``, changed in place so that it trains what this contender trains."""
    makers: dict[Contender, Callable[[], nn.Module]] = {
        "SHiRA": lambda: SparseParametrisation(model, index_set).model,
        "PEFT LoRA": lambda: _lora(case, model, in_fp32=True),
        "PEFT LoRA, bfloat16 factors": lambda: _lora(case, model, in_fp32=False),
        "PEFT SHiRA": lambda: _peft_shira(case, model, index_set),
        "SHiRA, dense gradient then gather": lambda: _dense_then_gather(model, index_set),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        return makers[name]()  # PEFT asks for what transformers renames


def _lora(case: TrainCase, model: nn.Module, *, in_fp32: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=case.rank, lora_alpha=2 * case.rank, target_modules=list(case.targets))
    return get_peft_model(model, config, autocast_adapter_dtype=in_fp32)


def _peft_shira(case: TrainCase, model: nn.Module, index_set: IndexSet) -> Any:
    """On the same positions as ours."""
    from peft import ShiraConfig, get_peft_model

    positions = {
        layer_of_weight(model, entry.name, shape=entry.shape): flat for entry, flat in unpack_positions(index_set)
    }

    def mask_of(base_layer: nn.Linear, r: int, **_: object) -> Tensor:
        mask = torch.zeros_like(base_layer.weight)
        mask.view(-1)[positions[base_layer].to(mask.device)] = 1
        return mask

    config = ShiraConfig(r=case.rank, target_modules=list(case.targets))
    config.mask_fn = mask_of
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # the default
    return get_peft_model(model, config)


def _dense_then_gather(model: nn.Module, index_set: IndexSet) -> nn.Module:
    for entry, flat in unpack_positions(index_set):
        layer = DenseGradientLinear(layer_of_weight(model, entry.name, shape=entry.shape), flat)
        model.set_submodule(entry.name.rpartition(".")[0], layer)
    return model


class DenseGradientLinear(SparseLinear):
    """What is left when the weight's whole gradient is computed and all but the positions thrown away."""

    def output(self, inputs: Tensor, delta: Tensor) -> Tensor:
        linear = cast("nn.Linear", self.base_layer)
        return F.linear(inputs, weight_of_delta(delta, linear.weight, self.positions), linear.bias)
