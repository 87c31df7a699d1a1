"""Which of PEFT's adapter types are a delta of weights once they are merged, and what in a config forbids it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters_store.errors import TrainingRefused

# Each is held against PEFT's own merge by a test; a type that is not listed is refused until it is.
MERGED = frozenset({
    "ADALORA", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3",
    "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD",
    "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip
_PROMPT = "it puts learned vectors beside the prompt and changes no weight"
_INPUT = "what it adds depends on the input, so no change of weights is equal to it"
NOT_MERGED: Mapping[str, str] = {
    "PROMPT_TUNING": _PROMPT, "MULTITASK_PROMPT_TUNING": _PROMPT, "P_TUNING": _PROMPT, "PREFIX_TUNING": _PROMPT,
    "CPT": _PROMPT, "CARTRIDGE": _PROMPT,
    "ADAPTION_PROMPT": _INPUT, "POLY": _INPUT, "XLORA": _INPUT, "SHADOW": _INPUT, "LILY": _INPUT,
}  # fmt: skip
CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")  # values of init_lora_weights, or what they begin with
UNCONVERTED: Mapping[str, str] = {
    "modules_to_save": "whole modules",
    "trainable_token_indices": "rows of the embedding",
    "layer_replication": "copies of layers",
    "target_parameters": "parameters that are no layer's weight",
    "alora_invocation_tokens": "changes that begin at one token of the prompt",
    "arrow_config": "adapters chosen by the input",
    "megatron_config": "layers of code that the config names",
}


def check_merges(config: Mapping[str, Any]) -> None:
    """Raises TrainingRefused with the reason, and with what to do where something can be done."""
    peft_type = str(config["peft_type"])[:40]
    if peft_type not in MERGED:
        reason = NOT_MERGED.get(peft_type, "a type that is not known here to merge into the weights")
        raise TrainingRefused("peft_type", expected="a type that merges into the weights", got=f"{peft_type}: {reason}")
    for key, what in UNCONVERTED.items():
        if config.get(key):
            raise TrainingRefused(key, expected=f"none: {what} cannot be converted", got=repr(config[key])[:80])
    if config.get("bias", "none") != "none":
        raise TrainingRefused(
            "bias",
            expected="'none', for the biases in the file replace those of the base",
            got=repr(config["bias"])[:80],
        )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
        raise TrainingRefused(
            "init_lora_weights",
            expected="an adapter of the unchanged base (PEFT converts one by save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...) and then writes true here)",
            got=f"{init[:40]!r}, which moves a part of the base into the adapter before training",
        )
