"""A real ``shira serve`` process on a tiny random pipeline that draws, with a few adapters over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from loadtest.live_server import LiveServer, checked
from server.bench_serve.random_adapters import sparse_adapter
from tests.e2e.tiny_server import nothing_leaks
from tests.server.runners.tiny_pipelines import SIZE, Family, save_tiny_pipeline

DENOISING = ["a", "b", "c"]  # of the denoiser
READING = "reader"  # of the text encoder
MAX_SIDE, MAX_BATCH, MAX_QUEUE = 96, 16, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureWorld:
    """``server`` draws with ``checkpoint``, in float32, and holds the adapters of ``versions``, which tests leave as
    they are. One forward is over one picture of ``SIZE``, so that who draws besides cannot be seen in its bits."""

    server: LiveServer
    checkpoint: Path
    versions: dict[str, str]

    def ask(self, adapter: Any = (), **wishes: Any) -> dict[str, Any]:
        return checked(self.server.client.post("/generate", json=body(adapter, **wishes)))

    @contextmanager
    def nothing_leaks(self) -> Iterator[None]:
        with nothing_leaks(self.server, lambda: b64(self.ask(seed=0))):
            yield


@contextmanager
def picture_world(directory: Path, family: Family = "sd", *options: str) -> Iterator[PictureWorld]:
    checkpoint = save_tiny_pipeline(family, directory / family)
    limits = {"forward-pixels": SIZE * SIZE, "image-side": MAX_SIDE, "batch": MAX_BATCH, "queue": MAX_QUEUE}
    options = (*(f"--max-{name}={limit}" for name, limit in limits.items()), *options)
    with LiveServer(directory / "data", "--model", str(checkpoint), *options, redis="off") as server:
        versions = {name: push_random(server, checkpoint, name, seed) for seed, name in enumerate(DENOISING)}
        versions[READING] = push_random(server, checkpoint, READING, 9, component="text_encoder")
        yield PictureWorld(server=server, checkpoint=checkpoint, versions=versions)


def push_random(server: LiveServer, checkpoint: Path, name: str, seed: int, *, component: str = "unet") -> str:
    """Random deltas of every weight of a component, large enough to be seen. Its version."""
    adapter = sparse_adapter(
        describe_checkpoint(checkpoint),
        sparsity=0.1,
        seed=seed,
        is_target=lambda weight: weight.startswith(f"{component}."),
        delta_scale=0.2,
    )
    path = checkpoint.with_name(f"{name}.safetensors")
    write_adapter(adapter, path)
    version: str = server.push(name, path)["version"]
    return version


def body(adapter: Any = (), *, method: str | None = None, **wishes: Any) -> dict[str, Any]:
    """Of four denoising steps with seed 1; ``wishes`` are parameters, or fields of the body that are named so."""
    fields: dict[str, Any] = {
        name: wishes.pop(name) for name in ("stream", "deadline_ms", "fusion", "prompt") if name in wishes
    }
    fusion = {"fusion": {"method": method}} if method else {}
    parameters = {"num_inference_steps": 4, "seed": 1, **wishes}
    return {"prompt": "a cat and a dog", "adapter": adapter or [], "parameters": parameters, **fusion, **fields}


def b64(answer: dict[str, Any]) -> str:
    """Of the one picture; PNG."""
    [image] = answer["images"]
    assert image["media_type"] == "image/png"
    data: str = image["b64"]
    return data


def named(*adapters: str | tuple[str, float]) -> Sequence[dict[str, Any]]:
    pairs = [(adapter, 1.0) if isinstance(adapter, str) else adapter for adapter in adapters]
    return [{"name": name, "scale": scale} for name, scale in pairs]
