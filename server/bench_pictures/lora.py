"""What diffusers does with LoRA checkpoints of a denoiser, each phase a step of a cycle."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters_store.tools.bench_timing import Cycle, Step
from server.bench_pictures.subject import Subject

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # the attention projections: what diffusers' own training adapts
LOAD, FUSE, UNFUSE, UNLOAD = (
    f"diffusers: {phase}" for phase in ("load_lora_adapter", "fuse_lora", "unfuse_lora", "unload_lora")
)
PHASES = (LOAD, FUSE, UNFUSE, UNLOAD)
SET_ADAPTERS = "diffusers: set_adapters, nothing fused"
FORWARD = "denoiser forward, plain"
FORWARD_BESIDE = "denoiser forward, LoRA not fused"
FILE_NAME = "pytorch_lora_weights.safetensors"
NAMES = ("one", "other")


class LoraRival:
    """Two random checkpoints in the denoiser's dtype, in the page cache, and the weights that they change."""

    def __init__(self, subject: Subject, folder: Path, *, rank: int | None, num_params: int, seed: int) -> None:
        """``rank`` None: the one that comes nearest to ``num_params``."""
        self._subject = subject
        self._folder = folder
        self._targets = {
            name: tensor for name, tensor in subject.tensors.items() if name.removesuffix(".weight").endswith(TARGETS)
        }
        per_rank = sum(sum(tensor.shape) for tensor in self._targets.values())
        self.rank = rank or max(1, round(num_params / per_rank))
        self.num_params = self.rank * per_rank
        self._originals = {name: tensor.clone() for name, tensor in self._targets.items()}
        self.share_changed = 0.0  # of the words of the fused weights, by the last fuse and unfuse
        for number, name in enumerate(NAMES):
            self._save(name, torch.Generator().manual_seed(seed + number))

    @property
    def num_changed_params(self) -> int:
        return sum(tensor.numel() for tensor in self._targets.values())

    def cycles(self) -> list[Cycle]:
        """The whole way into the weights and out of them; and beside the weights, where nothing is fused."""
        denoiser = self._subject.denoiser
        first, second = NAMES
        return [
            Cycle(
                (
                    Step(label=LOAD, run=lambda: self._load(first)),
                    Step(label=FUSE, run=denoiser.fuse_lora),
                    Step(label=UNFUSE, run=denoiser.unfuse_lora),
                    Step(label=UNLOAD, run=denoiser.unload_lora),
                    Step(label=None, run=self._mend),
                )
            ),
            Cycle(
                (
                    Step(label=FORWARD, run=self._subject.forward),
                    Step(label=None, run=lambda: self._load(first)),
                    Step(label=None, run=lambda: self._load(second)),
                    Step(label=SET_ADAPTERS, run=lambda: denoiser.set_adapters(second)),
                    Step(label=FORWARD_BESIDE, run=self._subject.forward),
                    Step(label=None, run=denoiser.unload_lora),
                )
            ),
        ]

    def _load(self, name: str) -> None:
        """As a pipeline's ``load_lora_weights`` does it for its denoiser."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute", category=UserWarning)
            self._subject.denoiser.load_lora_adapter(
                self._folder / name,
                prefix=self._subject.component,
                weight_name=FILE_NAME,
                adapter_name=name,
                low_cpu_mem_usage=True,
            )

    def _mend(self) -> None:
        """Counts the words that are not what they were, and puts the originals back for the next contender."""
        num_changed = sum(int((self._targets[name] != tensor).sum()) for name, tensor in self._originals.items())
        self.share_changed = num_changed / self.num_changed_params
        for name, tensor in self._originals.items():
            self._targets[name].copy_(tensor)

    def _save(self, name: str, generator: torch.Generator) -> None:
        factors: dict[str, Tensor] = {}
        for weight, tensor in self._targets.items():
            rows, columns = tensor.shape
            module = weight.removesuffix(".weight")
            for factor, shape in (("A", (self.rank, columns)), ("B", (rows, self.rank))):
                noise = torch.empty(shape, dtype=tensor.dtype).normal_(0, 0.01, generator=generator)
                factors[f"{module}.lora_{factor}.weight"] = noise
        (self._folder / name).mkdir(parents=True)
        save_file(factors, self._folder / name / FILE_NAME)
