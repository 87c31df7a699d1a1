"""What every cell needs, made once and only when asked for: texts in splits, the base in memory, the regime."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from adapters_store.adapter import TORCH_DTYPES, Adapter, DTypeName, IndexSet, sha256_digest
from adapters_store.base import BaseDescription, BaseWeight, describe_checkpoint
from adapters_store.blend import Fusion
from adapters_store.errors import TrainingRefused
from adapters_store.format import Positions, pack_positions
from adapters_store.tools.applied import applied
from adapters_store.tools.bench_report import machine
from adapters_store.tools.checkpoint import load_causal_lm, load_tokenizer, target_weights
from adapters_store.tools.data import load_examples
from adapters_store.tools.loss import mean_loss
from adapters_store.tools.reproduction.plan import DOMAINS
from adapters_store.tools.reproduction.regime import Regime, regime_of
from adapters_store.tools.reproduction.settings import Settings
from adapters_store.tools.reproduction.splits import Splits, split

PRECISION = torch.bfloat16
MEASURING_BATCH = 4
VERSIONS_OF = ("torch", "transformers", "peft", "accelerate")
SplitName = Literal["validation", "test"]


class Workbench:
    """One thread. The model it holds is the base whenever nobody measures."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def base(self) -> BaseDescription:
        return describe_checkpoint(self.settings.model_dir)

    @cached_property
    def names(self) -> list[str]:
        """The target weights."""
        return target_weights(self.base, self.settings.targets)

    @cached_property
    def regime(self) -> Regime:
        """Reads the texts and the checkpoint; loads nothing."""
        shapes = [self.base.weights[name].shape for name in self.names]
        return regime_of(self.settings, base=self.base.fingerprint, texts=self._digests(), shapes=shapes)

    @cached_property
    def splits(self) -> dict[str, Splits]:
        """By domain. Raises TrainingRefused for a text that is too short."""
        tokenizer = load_tokenizer(self.settings.model_dir)
        return {
            domain: split(
                load_examples(
                    self.settings.data_dir / f"{domain}.txt", tokenizer, sequence_length=self.settings.sequence_length
                ),
                num_validation=self.settings.num_validation,
                num_test=self.settings.num_test,
            )
            for domain in DOMAINS
        }

    @cached_property
    def model(self) -> nn.Module:
        """The base, for measuring."""
        return self.fresh_model().requires_grad_(False)

    def fresh_model(self) -> nn.Module:
        """A base of the caller's own, for training."""
        return load_causal_lm(self.settings.model_dir, dtype=PRECISION, device=self.settings.device)

    @cached_property
    def all_positions(self) -> IndexSet:
        """Every entry of every target weight: the support of a dense delta."""
        weights = [self.base.weights[name] for name in self.names]
        return pack_positions(
            [
                Positions(
                    name=weight.name,
                    shape=weight.shape,
                    dtype=_adaptable(weight),
                    flat=torch.arange(weight.shape[0] * weight.shape[1]),
                )
                for weight in weights
            ]
        )

    def losses(
        self,
        members: Sequence[tuple[Adapter, float]],
        split_name: SplitName,
        *,
        fusion: Fusion = Fusion(),  # noqa: B008  (frozen)
        domains: Sequence[str] = DOMAINS,
    ) -> dict[str, float]:
        """Of the blend as the server would write it; of the base for no members."""
        with applied(self.model, members, fusion):
            return self.losses_of(self.model, split_name, domains=domains)

    def losses_of(
        self, model: nn.Module, split_name: SplitName, *, domains: Sequence[str] = DOMAINS
    ) -> dict[str, float]:
        return {
            domain: mean_loss(model, getattr(self.splits[domain], split_name), batch_size=MEASURING_BATCH)
            for domain in domains
        }

    @cached_property
    def versions(self) -> dict[str, str | None]:
        return {name: _version(name) for name in VERSIONS_OF}

    @cached_property
    def machine(self) -> dict[str, str | int | None]:
        """The processor and how much of it, nothing that tells machines of one kind apart."""
        device = torch.cuda.get_device_name() if self.settings.device == "cuda" else "cpu"
        return {"device": device, "cpu": machine()["cpu"], "num_threads": torch.get_num_threads()}

    def _digests(self) -> dict[str, str]:
        return {domain: _digest(self.settings, domain) for domain in DOMAINS}


def _digest(settings: Settings, domain: str) -> str:
    path = settings.data_dir / f"{domain}.txt"
    try:
        return sha256_digest(path.read_bytes())
    except OSError as error:
        raise TrainingRefused(
            "data", expected=f"a text for each of {', '.join(DOMAINS)}", got=f"{path}: {error.strerror}"
        ) from error


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _adaptable(weight: BaseWeight) -> DTypeName:
    dtype = weight.adaptable_dtype
    if dtype is None:
        raise TrainingRefused("model", expected=f"weights of {', '.join(TORCH_DTYPES)}", got=weight.dtype)
    return dtype
