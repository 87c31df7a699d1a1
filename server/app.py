"""The composition root: the only place that knows every part. Read it as the table of contents of the server.

config → metrics → base → store → execution → runner → engine → routes; the lifespan starts them in this order and
stops them in reverse, after the requests that were accepted have been answered.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import torch
import uvicorn
from fastapi import FastAPI

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from server.api.app import build_api
from server.api.services import Services
from server.auditing import audit_every
from server.changed_base import keep_changed_base, recall_changed_base
from server.core.clock import MonotonicClock
from server.core.errors import ServerError
from server.core.key_ring import KeyRing
from server.core.log import configure_logging
from server.core.metrics import Metrics
from server.core.settings import ServerConfig
from server.core.threads import start_all
from server.core.tier_metrics import TierMetrics
from server.core.tracing import open_tracing
from server.core.waiting import take_turns_often
from server.draining import DrainingServer
from server.engine.client import EngineClient
from server.engine.loop import EngineThread
from server.engine.messages import Forget
from server.execution.residency import StoreResidency
from server.served import load_base, serve
from server.vitals import tell_vitals

log = logging.getLogger(__name__)

LOADER_THREADS = 4
LAST_ANSWERS_S = 5  # after a drain, for those that did not finish in time to be told so
NOT_STARTED = 3  # exit codes
ENGINE_DIED = 4


class NotListening(ServerError):
    """The address cannot be had."""


def run(config: ServerConfig, reload: Callable[[], ServerConfig]) -> None:
    """Serves until SIGTERM or SIGINT, then drains and exits with 0; or until the engine dies, then exits with 4.

    SIGHUP takes the API keys that ``reload`` finds."""
    keys = KeyRing(config, reload)
    reread_on_hangup(keys)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when all is drained
    configure_logging(config.log_format, config.log_level)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    take_turns_often()
    check_address(config)
    app = build_app(config, keys)
    http = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_config=None,
        timeout_graceful_shutdown=math.ceil(config.drain_s) + LAST_ANSWERS_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = DrainingServer(http, app.state.drain)
    engine_ended: Future[None] = app.state.engine_ended
    engine_ended.add_done_callback(lambda _: server.leave())
    with suppress(KeyboardInterrupt, SystemExit):
        server.run()
    if not server.started:
        sys.exit(NOT_STARTED)
    if engine_ended.done() and engine_ended.exception() is not None:
        sys.exit(ENGINE_DIED)


def reread_on_hangup(keys: KeyRing) -> None:
    """Main thread only. The thread that reads is there before the signal: later there may be no memory for one."""
    keys.start()
    signal.signal(signal.SIGHUP, lambda *_: keys.ask())


def check_address(config: ServerConfig) -> None:
    """Says now, not after the base is loaded, that the address cannot be had. Raises NotListening."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise NotListening(
                f"cannot listen on {config.host}:{config.port}: {error.strerror}; see --host and --port"
            ) from error


def build_app(config: ServerConfig, keys: KeyRing | None = None) -> FastAPI:
    """Loads the base and wires everything; nothing runs yet but what the lifespan of the returned app starts.

    Raises ModelNotLoadable, DataDirLocked."""
    metrics = Metrics()
    clock = MonotonicClock()
    tracing = open_tracing(config.otlp_endpoint, ratio=config.trace_ratio)
    loaded = load_base(config)
    tier_metrics = TierMetrics(metrics)
    store = AdapterStore(_store_config(config), loaded.weights.fingerprint, tier_metrics)
    served = serve(loaded, config, store, metrics, tier_metrics)
    loaders = ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="loader")
    engine = EngineThread(
        execution=served.execution,
        runner=served.runner,
        residency=StoreResidency(store, loaders, tier_metrics.fetches),
        clock=clock,
        metrics=metrics,
        limits=served.limits,
        costs=served.costs,
    )
    client = EngineClient(engine, clock)
    recall_changed_base(metrics, config.data_dir)
    engine.ended.add_done_callback(lambda _: keep_changed_base(metrics, config.data_dir))
    tell_vitals(metrics, config, served.info, client)
    store.subscribe(lambda version: engine.post(Forget(version=version, done=Future())))  # gone, not by a delete here
    services = Services(
        config=config,
        keys=keys or KeyRing(config),
        metrics=metrics,
        store=store,
        engine=client,
        codec=served.codec,
        prompts=served.prompts,
        base=served.info,
        now=clock.now,
        tracing=tracing,
    )
    app = build_api(services)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            running.callback(log.info, "stopped")
            running.callback(gc.unfreeze)  # what stays frozen at exit, extension modules report as leaked
            running.callback(tracing.close)
            store.start()
            running.callback(store.close)
            running.push_async_callback(services.background.idle)  # deletes: the files are ours until the store closes
            running.callback(loaders.shutdown)
            start_all(loaders, LOADER_THREADS)
            engine.start()
            running.callback(engine.join)
            running.push_async_callback(app.state.drain)
            _freeze_long_lived_objects()
            log.info(
                "ready: %s, kernels %s, %d MiB of weights", loaded.name, served.kernels, loaded.weights.num_bytes >> 20
            )
            auditing = asyncio.create_task(audit_every(config.audit_interval_s, client.verify))
            running.callback(auditing.cancel)
            yield

    app.state.engine_ended = engine.ended
    app.state.drain = partial(client.drain, config.drain_s)
    app.router.lifespan_context = lifespan
    return app


def _store_config(config: ServerConfig) -> StoreConfig:
    is_url = config.redis not in ("embedded", "off")
    return StoreConfig(
        data_dir=config.data_dir,
        host_budget_bytes=config.host_budget_bytes,
        redis=RedisSettings(
            mode="url" if is_url else config.redis,  # type: ignore[arg-type]
            url=config.redis if is_url else None,
            values_budget_bytes=config.redis_values_budget_bytes,
        ),
    )


def _freeze_long_lived_objects() -> None:
    """Model and routes live as long as the process: keep them out of every later collection."""
    gc.collect()
    gc.freeze()
