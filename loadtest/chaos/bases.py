"""What the servers under test serve: small bases whose restarts are quick, and the default one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from loadtest.live_server import MODELS_DIR, REPOSITORY
from loadtest.tiny_model import save_tiny_model
from server.bench_serve.random_adapters import is_of_decoder, sparse_adapter
from server.demo.text import EXAMPLES_BASE
from server.runners.loading import resolve_model

NUM_INDEX_SETS = 3
ADAPTERS_PER_INDEX_SET = 4
DELTA_SCALE = 0.05
CONTEXT_TOKENS = 8192
EMOJI = REPOSITORY / "examples" / "emoji" / "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An adapter as a file, and the version the server must give it."""

    path: Path
    version: str

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """``options`` are those of ``shira serve``; ``sparsity`` is of the adapters that the load uploads."""

    name: str
    options: tuple[str, ...]
    checkpoint: Path
    draws: bool
    is_target: Callable[[str], bool]
    sparsity: float

    def body(self, adapter: object, *, length: int = 8, **more: object) -> dict[str, Any]:
        """A seeded request; ``length`` in tokens, or in denoising steps."""
        parameters: dict[str, float] = {"num_inference_steps": length, "seed": 7, "height": 32, "width": 32}
        if not self.draws:
            parameters = {"max_new_tokens": length, "seed": 7, "temperature": 0.8, "ignore_eos": True}
        return {"prompt": "red apple", "adapter": adapter, "parameters": parameters, **more}

    def answered(self, answer: Mapping[str, Any]) -> str:
        """What was made: the text, or the picture."""
        return str(answer["images"][0]["b64"] if self.draws else answer["text"])

    def uploads(self, directory: Path, *, seed: int) -> list[Upload]:
        """Adapters in groups that share an index set."""
        made = []
        for group in range(NUM_INDEX_SETS):
            first = self.adapter(seed=seed * 1000 + group, sparsity=self.sparsity)
            made.append(first)
            for twin in range(1, ADAPTERS_PER_INDEX_SET):
                values = torch.roll(first.values, twin)
                made.append(build_adapter(base=first.base, index_set=first.index_set, values=values))
        return [saved(adapter, directory / f"{number}.safetensors") for number, adapter in enumerate(made)]

    def adapter(self, *, seed: int, sparsity: float) -> Adapter:
        return sparse_adapter(
            describe_checkpoint(self.checkpoint),
            sparsity=sparsity,
            seed=seed,
            is_target=self.is_target,
            delta_scale=DELTA_SCALE,
        )


def saved(adapter: Adapter, path: Path) -> Upload:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_adapter(adapter, path)
    return Upload(path=path, version=adapter.version)


def tiny(directory: Path) -> Base:
    """A random Llama of a few thousand weights."""
    checkpoint = save_tiny_model(directory / "tiny-model")
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": CONTEXT_TOKENS}))
    return Base(
        name="tiny",
        options=("--model", str(checkpoint)),
        checkpoint=checkpoint,
        draws=False,
        is_target=is_of_decoder,
        sparsity=0.1,
    )


def emoji(_: Path) -> Base:
    """The model of 8.7 M weights that draws."""
    return Base(
        name="emoji",
        options=("--model", str(EMOJI), "--dtype", "float32"),
        checkpoint=EMOJI,
        draws=True,
        is_target=lambda weight: weight.startswith("unet."),
        sparsity=0.01,
    )


def default(_: Path) -> Base:
    """SmolLM2-135M-Instruct."""
    return Base(
        name="default",
        options=("--model", EXAMPLES_BASE),
        checkpoint=resolve_model(EXAMPLES_BASE, MODELS_DIR),
        draws=False,
        is_target=is_of_decoder,
        sparsity=0.002,
    )


BASES: Mapping[str, Callable[[Path], Base]] = {"tiny": tiny, "emoji": emoji, "default": default}
