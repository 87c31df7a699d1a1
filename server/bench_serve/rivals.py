"""transformers and PEFT over padded batches, each as its users would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from server.bench_serve.random_adapters import quiet_peft
from server.bench_serve.workload import Arrival, adapter_name

BASE_ROW = "__base__"  # as PEFT calls a row without an adapter


class Generate:
    """The base, whatever adapter a request asks for: padded on the left, until the longest answer is there."""

    def __init__(self, model_dir: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, padding_side="left", local_files_only=True)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.convert_ids_to_tokens(0)
        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto", local_files_only=True)
        model.requires_grad_(False).eval()
        model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = self._tokenizer.pad_token_id
        self._model = model

    def run_batch(self, requests: Sequence[Arrival]) -> Mapping[str, float]:
        return self._generate(requests)

    def _generate(self, requests: Sequence[Arrival], **more: Any) -> Mapping[str, float]:
        """``decode_s``: from the first token on; ``num_decoded``: the tokens asked for that came in that time."""
        tokens = self._tokenizer([request.prompt for request in requests], padding=True, return_tensors="pt")
        first = _FirstToken()
        self._model.generate(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            max_new_tokens=max(request.num_new_tokens for request in requests),
            do_sample=False,
            streamer=first,
            **more,
        )
        num_decoded = sum(request.num_new_tokens - 1 for request in requests)
        return {"decode_s": perf_counter() - first.at_s, "num_decoded": num_decoded}


def _contiguous(head: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In the rival's favour: given the last positions of a batch as a view, torch copies the head's whole weight for
    every row (10 s for a batch of 32)."""
    return tuple(tensor.contiguous() for tensor in inputs)


class _FirstToken(BaseStreamer):  # type: ignore[misc]
    """When the first token of a batch was there: ``generate`` puts the prompts, then token after token."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._num_puts = 0

    def put(self, value: object) -> None:
        self._num_puts += 1
        if self._num_puts == 2:
            self.at_s = perf_counter()

    def end(self) -> None:
        pass


class AdapterNames(Generate):
    """PEFT's mixed batch: each row with its own LoRA."""

    def __init__(self, model_dir: Path, lora_dirs: Sequence[str]) -> None:
        super().__init__(model_dir)
        self._model = _with_loras(self._model, lora_dirs)

    def run_batch(self, requests: Sequence[Arrival]) -> Mapping[str, float]:
        return self._generate(requests, adapter_names=[request.adapter or BASE_ROW for request in requests])


class Merge(Generate):
    """PEFT's merged serving: a batch in groups of one adapter, which is merged before and unmerged behind."""

    def __init__(self, model_dir: Path, lora_dirs: Sequence[str]) -> None:
        super().__init__(model_dir)
        self._model = _with_loras(self._model, lora_dirs)

    def run_batch(self, requests: Sequence[Arrival]) -> Mapping[str, float]:
        """``switch_s``: of merging and unmerging; ``num_switches``: how many pairs of them."""
        switch_s, num_switches = 0.0, 0
        for name in dict.fromkeys(request.adapter for request in requests):
            group = [request for request in requests if request.adapter == name]
            if name is None:
                with self._model.disable_adapter():
                    self._generate(group)
                continue
            started_s = perf_counter()
            self._model.set_adapter(name)
            self._model.merge_adapter([name])
            switch_s += perf_counter() - started_s
            self._generate(group)
            started_s = perf_counter()
            self._model.unmerge_adapter()
            switch_s += perf_counter() - started_s
            num_switches += 1
        return {"switch_s": switch_s, "num_switches": num_switches}


def _with_loras(model: Any, lora_dirs: Sequence[str]) -> Any:
    from peft import PeftModel

    names = [adapter_name(number) for number in range(len(lora_dirs))]
    with quiet_peft():
        lora: Any = PeftModel.from_pretrained(model, lora_dirs[0], adapter_name=names[0], autocast_adapter_dtype=False)
        for name, path in zip(names[1:], lora_dirs[1:], strict=True):
            lora.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
    return lora.eval()
