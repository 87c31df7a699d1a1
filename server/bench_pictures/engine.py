"""The server's own store, execution, runner and engine thread over a pipeline, without HTTP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from queue import SimpleQueue

from adapters_store.adapter import Adapter
from adapters_store.blend import Blend
from adapters_store.format import ParsedUpload
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from server.core.clock import MonotonicClock
from server.core.metrics import Metrics
from server.core.requests import ImageRequest, Picture, RequestId
from server.core.settings import ServerConfig
from server.core.tier_metrics import TierMetrics
from server.engine.loop import EngineThread
from server.engine.messages import Drain, Event, FailEvent, ImageEvent, ProgressEvent, Submit
from server.execution.residency import StoreResidency
from server.runners.pipeline_loading import LoadedPipeline
from server.served import serve

DRAIN_S = 60.0
PROMPT = "a red apple"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An image; the same seed gives the same picture."""

    blend: Blend
    seed: int
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What became of wishes that came together, in their order. Seconds since they came; ``num_steps_to_first``: how
    many denoising steps of all of them had run when the first image was there."""

    pictures: tuple[Picture, ...]
    first_step_s: tuple[float, ...]
    end_s: tuple[float, ...]
    switch_s: tuple[float, ...]
    num_steps_to_first: int

    @property
    def total_s(self) -> float:
        return max(self.end_s)


class DrawingEngine:
    """Takes wishes and waits for the pictures. One caller."""

    def __init__(self, engine: EngineThread, loaded: LoadedPipeline, metrics: Metrics) -> None:
        self._engine = engine
        self._loaded = loaded
        self._metrics = metrics
        self._clock = MonotonicClock()
        self._numbers = count()

    def draw(self, *wishes: Wish) -> Drawn:
        """Every wish is of another client. Raises what one of them failed with."""
        events: SimpleQueue[tuple[int, float, Event]] = SimpleQueue()
        started_s = self._clock.now()
        for place, wish in enumerate(wishes):
            sink = partial(self._put, events, place)
            self._engine.post(Submit(requests=(self._request(wish, started_s),), sinks=(sink,)))
        first_step_s: dict[int, float] = {}
        ends: dict[int, tuple[float, ImageEvent]] = {}
        num_steps = num_steps_to_first = 0
        while len(ends) < len(wishes):
            place, now_s, event = events.get()
            if isinstance(event, FailEvent):
                raise event.error
            num_steps += isinstance(event, ProgressEvent)  # each is told: nobody who reads slowly is in between
            first_step_s.setdefault(place, now_s - started_s)
            if isinstance(event, ImageEvent):
                num_steps_to_first = num_steps_to_first or num_steps
                ends[place] = now_s - started_s, event
        in_order = [ends[place] for place in range(len(wishes))]
        return Drawn(
            pictures=tuple(event.picture for _, event in in_order),
            first_step_s=tuple(first_step_s[place] for place in range(len(wishes))),
            end_s=tuple(end_s for end_s, _ in in_order),
            switch_s=tuple(event.receipt.switch_ms / 1e3 for _, event in in_order),
            num_steps_to_first=num_steps_to_first,
        )

    @property
    def num_switches(self) -> int:
        """Of any kind, since the engine began."""
        samples = [sample for metric in self._metrics.switches.collect() for sample in metric.samples]
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))

    def _put(self, events: SimpleQueue[tuple[int, float, Event]], place: int, event: Event) -> None:
        events.put((place, self._clock.now(), event))

    def _request(self, wish: Wish, now_s: float) -> ImageRequest:
        number = next(self._numbers)
        return ImageRequest(
            id=RequestId(f"image-{number}"),
            tenant="default",
            client=f"client-{number}",
            weight=1.0,
            blend=wish.blend,
            adapters=(),
            mode="auto",
            arrived_s=now_s,
            deadline_s=None,
            max_new_tokens=wish.num_steps,
            prompt=PROMPT,
            negative_prompt=None,
            height=self._loaded.default_height,
            width=self._loaded.default_width,
            guidance_scale=None,
            scheduler=None,
            seed=wish.seed,
            preview_every=0,
        )


@contextmanager
def running_engine(loaded: LoadedPipeline, adapters: Sequence[Adapter]) -> Iterator[DrawingEngine]:
    """Wired as ``app`` does it; the base is back in the weights afterwards."""
    with tempfile.TemporaryDirectory(prefix="shira-bench-") as folder:
        config = ServerConfig(model=loaded.name, data_dir=Path(folder), redis="off", calibrate=False)
        metrics = Metrics()
        observer = TierMetrics(metrics)
        with closing(AdapterStore(_store_config(config), loaded.weights.fingerprint, observer)) as store:
            store.start()
            for number, adapter in enumerate(adapters):
                upload = ParsedUpload(adapter=adapter, card=None, base_verified=True)
                store.put(upload, tenant="default", name=f"adapter-{number}")
            served = serve(loaded, config, store, metrics, observer)
            with ThreadPoolExecutor(1, thread_name_prefix="loader") as loaders:
                engine = EngineThread(
                    execution=served.execution,
                    runner=served.runner,
                    residency=StoreResidency(store, loaders),
                    clock=MonotonicClock(),
                    metrics=metrics,
                    limits=served.limits,
                    costs=served.costs,
                )
                engine.start()
                try:
                    yield DrawingEngine(engine, loaded, metrics)
                finally:
                    engine.post(Drain(deadline_s=MonotonicClock().now() + DRAIN_S, done=Future()))
                    engine.join()


def _store_config(config: ServerConfig) -> StoreConfig:
    redis = RedisSettings(mode="off", url=None, values_budget_bytes=0)
    return StoreConfig(data_dir=config.data_dir, host_budget_bytes=config.host_budget_bytes, redis=redis)
