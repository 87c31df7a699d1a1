"""What diffusers does with LoRA checkpoints of a denoiser, each phase a step of a cycle."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters_store.tools.bench_timing import Cycle, Step
from server.bench_pictures.options import Targets
from server.bench_pictures.subject import Subject, is_attention

PHASES = ("load_lora_adapter", "fuse_lora", "unfuse_lora", "unload_lora")
SET_ADAPTERS = "diffusers: set_adapters, nothing fused"
FORWARD = "denoiser forward, plain"
FORWARD_BESIDE = "denoiser forward, LoRA not fused"
FILE_NAME = "pytorch_lora_weights.safetensors"
NAMES = ("one", "other")


class LoraRival:
    """Two random checkpoints in the denoiser's dtype, in the page cache, and the weights that they change."""

    def __init__(
        self,
        subject: Subject,
        originals: Mapping[str, Tensor],
        folder: Path,
        *,
        targets: Targets,
        rank: int | None,
        num_params: int,
        seed: int,
    ) -> None:
        """``originals``: copies of ``subject.tensors``. ``rank`` None: the one that comes nearest to ``num_params``."""
        self._subject = subject
        self._originals = originals
        self._folder = folder
        self._targets = {
            name: tensor for name, tensor in subject.tensors.items() if targets == "all" or is_attention(name)
        }
        per_rank = sum(sum(map(math.prod, _factor_shapes(tensor, rank=1))) for tensor in self._targets.values())
        self.rank = rank or max(1, round(num_params / per_rank))
        self.num_params = self.rank * per_rank
        self.name = f"diffusers, LoRA r{self.rank} of {targets}"
        self.share_changed = 0.0  # of the words of the fused weights, by the last fuse and unfuse
        for number, name in enumerate(NAMES):
            self._save(name, torch.Generator().manual_seed(seed + number))

    @property
    def phases(self) -> tuple[str, ...]:
        """Labels of the steps of ``through_the_weights``, in order."""
        return tuple(f"{self.name}: {phase}" for phase in PHASES)

    def through_the_weights(self) -> Cycle:
        """The whole way into them and out again."""
        load, fuse, unfuse, unload = self.phases
        denoiser = self._subject.denoiser
        return Cycle(
            (
                Step(label=load, run=lambda: self._load(NAMES[0])),
                Step(label=fuse, run=denoiser.fuse_lora),
                Step(label=unfuse, run=denoiser.unfuse_lora),
                Step(label=unload, run=denoiser.unload_lora),
                Step(label=None, run=self._mend),
            )
        )

    def beside_the_weights(self) -> Cycle:
        """Both loaded, nothing fused: a short switch, and a product more in every layer of each forward."""
        first, second = NAMES
        denoiser = self._subject.denoiser
        return Cycle(
            (
                Step(label=FORWARD, run=self._subject.forward),
                Step(label=None, run=lambda: self._load(first)),
                Step(label=None, run=lambda: self._load(second)),
                Step(label=SET_ADAPTERS, run=lambda: denoiser.set_adapters(second)),
                Step(label=FORWARD_BESIDE, run=self._subject.forward),
                Step(label=None, run=denoiser.unload_lora),
            )
        )

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
        num_changed = num_words = 0
        for name, tensor in self._targets.items():
            num_changed += int((tensor != self._originals[name]).sum())
            num_words += tensor.numel()
            tensor.copy_(self._originals[name])
        self.share_changed = num_changed / num_words

    def _save(self, name: str, generator: torch.Generator) -> None:
        factors: dict[str, Tensor] = {}
        for weight, tensor in self._targets.items():
            module = weight.removesuffix(".weight")
            for factor, shape in zip("AB", _factor_shapes(tensor, rank=self.rank), strict=True):
                noise = torch.empty(shape, dtype=tensor.dtype).normal_(0, 0.01, generator=generator)
                factors[f"{module}.lora_{factor}.weight"] = noise
        (self._folder / name).mkdir(parents=True)
        save_file(factors, self._folder / name / FILE_NAME)


def _factor_shapes(weight: Tensor, *, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a matrix, or of a convolution, whose second factor has a kernel of one."""
    rows, columns, *kernel = weight.shape
    return (rank, columns, *kernel), (rows, rank, *(1 for _ in kernel))
