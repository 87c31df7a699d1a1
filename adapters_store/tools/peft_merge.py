"""What PEFT's merge of an adapter changes in each weight of the base, computed by PEFT itself, layer by layer.

Only for adapters that the user of the command has on disk; nothing a client uploads comes here. State is read from
safetensors alone, the base from a local directory, and code from neither.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from adapters_store.base import BaseDescription
from adapters_store.errors import BaseMismatch, TrainingRefused
from adapters_store.peft_format import PREFIX
from adapters_store.tools.checkpoint import load_causal_lm, stored_weights
from adapters_store.tools.peft_export import WEIGHTS_FILE

ADAPTER_NAME = "default"


def merged_deltas(
    folder: Path, config: Mapping[str, Any], *, base_dir: Path, base: BaseDescription
) -> Iterator[tuple[str, Tensor]]:
    """(weight of the base, W_merged − W as stored) of every adapted layer, float64, one at a time.

    The base is loaded in fp32; each layer is raised to float64 while it is merged, so that what an addition of fp32
    would round away in the sum is there in the difference. Raises TrainingRefused, BaseMismatch."""
    if find_spec("peft") is None:
        raise TrainingRefused("peft", expected="pip install 'shira-server[train]'", got="not installed")
    with warnings.catch_warnings():  # PEFT's warnings are about training, or become errors below
        warnings.simplefilter("ignore")
        model = load_causal_lm(base_dir, dtype=torch.float32, device="cpu")
        tied = _tied_names(model)
        _check_no_base_tensors(folder, base)
        layers = _load_adapter(model, folder, config)
        for module_name, layer in layers.items():
            for name in _parameter_names(module_name, layer):
                _check_weight(name, base, tied)
        is_quiet = not sys.stderr.isatty()
        for module_name, layer in tqdm(layers.items(), desc="merging", unit="layer", disable=is_quiet):
            _merge(module_name, layer)
            for name in _parameter_names(module_name, layer):
                stored = next(weight for _, weight in stored_weights(base_dir, [name]))
                merged = layer.get_base_layer().get_parameter(name.rpartition(".")[2]).detach()
                yield name, merged - stored.double()
            for parameter in layer.get_base_layer().parameters():
                parameter.data = torch.empty(0)  # a merged layer is not needed again


def _check_no_base_tensors(folder: Path, base: BaseDescription) -> None:
    """PEFT may save whole weights of the base beside the adapter (a resized embedding) and loads them in silence."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        whole = sorted(name for name in set(file.keys()) if name.removeprefix(PREFIX) in base.weights)
    if whole:
        raise TrainingRefused(
            "adapter",
            expected="deltas of layers alone",
            got=f"{len(whole)} whole weights of the base as well (such as {whole[0]})",
        )


def _load_adapter(model: nn.Module, folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The adapted layers of ``model``, which they are put into, by the name of the module each adapts."""
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        _check_understood(config)
        peft_config = PeftConfig.from_peft_type(**config)
        peft_config.inference_mode = True
        tuned = PeftModel(model, peft_config, ADAPTER_NAME)
        loaded = tuned.load_adapter(str(folder), ADAPTER_NAME, torch_device="cpu")
    except RuntimeError as error:  # torch's, of shapes that do not fit
        raise BaseMismatch(
            "shape", tensor=None, expected="an adapter that fits this base", got=_first_lines(error)
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        raise TrainingRefused("adapter", expected="one that PEFT can load", got=_first_lines(error)) from error
    strays = [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if "vector_bank" not in key)]
    if strays:
        raise TrainingRefused(
            "adapter",
            expected="exactly the tensors that its config asks for",
            got=f"{len(loaded.unexpected_keys)} that nothing asks for and {len(loaded.missing_keys)} missing "
            f"(such as {strays[0][:120]})",
        )
    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _check_understood(config: Mapping[str, Any]) -> None:
    """A field from another version of PEFT, which this one would leave out, may change what the tensors mean."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]])}
    for key in config.keys() - known:
        if config[key]:
            raise TrainingRefused(
                "adapter",
                expected=f"a config that PEFT {peft.__version__} understands whole",
                got=f"{key[:80]} = {config[key]!r:.80}",
            )


def _tied_names(model: nn.Module) -> set[str]:
    """Every name of a weight that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name for several in names.values() if len(several) > 1 for name in several}


def _merge(module_name: str, layer: Any) -> None:
    """In float64, in place."""
    layer.double()
    try:
        layer.merge()
    except (ValueError, RuntimeError) as error:
        raise TrainingRefused("adapter", expected=f"a delta of {module_name}", got=_first_lines(error)) from error


def _parameter_names(module_name: str, layer: Any) -> list[str]:
    return [f"{module_name}.{name}" for name, _ in layer.get_base_layer().named_parameters(recurse=False)]


def _check_weight(name: str, base: BaseDescription, tied: set[str]) -> None:
    if name in tied:
        raise TrainingRefused(
            "adapter", expected="layers with a weight of their own", got=f"{name}, which the model shares with another"
        )
    if name not in base.weights:
        raise BaseMismatch("weight", tensor=name, expected="a weight stored in the base", got="an unknown name")


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
