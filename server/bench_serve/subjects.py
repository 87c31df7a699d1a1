"""Who is measured: descriptions that plans are made of, and what each becomes when it is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from server.bench_serve.workload import Arrival

if TYPE_CHECKING:
    from server.bench_serve.measures import Measured

OfflineMethod = Literal["generate", "adapter-names", "merge", "engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiraServer:
    """``shira serve`` holding ``num_adapters``, with room on host and device for ``room_for`` of them (None: for all).
    ``num_keys`` above 1 starts it with API keys. ``options`` are settings of the server."""

    num_adapters: int = 0
    room_for: int | None = None
    num_keys: int = 1
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        held = "no adapters" if self.num_adapters == 0 else f"{self.num_adapters} adapters"
        room = "" if self.room_for is None else f", room for {self.room_for}"
        return f"shira ({', '.join([held + room, *(f'{key}={value}' for key, value in self.options)])})"


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServer:
    """vLLM's OpenAI server, with LoRA adapters of rank 16; with none, LoRA is off."""

    num_adapters: int = 0

    def __str__(self) -> str:
        return f"vLLM ({f'LoRA r16, {self.num_adapters} slots' if self.num_adapters else 'no LoRA'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """No server: the requests in order, in padded batches of the workload's concurrency, in one process.

    ``generate``: transformers on the base, whatever adapter was asked for. ``adapter-names``: PEFT's mixed batch.
    ``merge``: each batch in groups of one adapter, merged before and unmerged behind by PEFT.
    ``engine``: our own steps without HTTP, on the base."""

    method: OfflineMethod
    num_adapters: int = 0

    def __str__(self) -> str:
        return {
            "generate": "transformers generate, padded batch (offline)",
            "adapter-names": f"PEFT adapter_names, {self.num_adapters} LoRA r16 (offline)",
            "engine": "our steps in one process (offline)",
            "merge": f"PEFT merge/unmerge, {self.num_adapters} LoRA r16 (offline)",
        }[self.method]


Subject = ShiraServer | VllmServer | Offline


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all subjects of a run have in common. ``server_options`` go to every ``shira serve``; ``sparsity`` is that
    of our adapters; ``work_dir`` keeps models and LoRA adapters from run to run."""

    model_dir: Path
    work_dir: Path
    sparsity: float = 0.01
    threads: int | None = None
    server_options: Mapping[str, str]
    vllm_python: Path | None = None


class Running(Protocol):
    """A subject that has been started."""

    def run(self, arrivals: Sequence[Arrival], *, concurrency: int | None) -> Measured:
        """Raises WrongAnswer, ServerFailed."""
        ...

    def stop(self) -> None: ...
