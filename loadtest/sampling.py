"""Watches servers while a run goes on: memory of their processes, and what they tell of themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.failures import noted
from loadtest.samples import Sample
from loadtest.scenario import ServerName
from loadtest.servers import RunningServer
from server.processes import ServerFailed

GAUGES = ("shira_adapter_resident", "shira_tier_bytes", "shira_queue_depth")


@contextmanager
def sampled(
    servers: Mapping[ServerName, RunningServer], failures: list[str], *, every_s: float
) -> Iterator[list[Sample]]:
    """The list grows by a sample of each server now, every so often, and at the end; a sample that fails is noted in
    ``failures``, and the next one tried."""
    samples: list[Sample] = []
    done = threading.Event()
    thread = threading.Thread(target=_sample, args=(servers, samples, failures, every_s, done), name="sampling")
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def read_gauges(text: str) -> dict[str, float]:
    return {
        "/".join([sample.name.removeprefix("shira_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name in GAUGES
        for sample in family.samples
    }


def _sample(
    servers: Mapping[ServerName, RunningServer],
    samples: list[Sample],
    failures: list[str],
    every_s: float,
    done: threading.Event,
) -> None:
    is_last = False
    while not is_last:
        is_last = done.is_set()
        for name, server in servers.items():
            with noted(failures):
                samples.append(_sample_of(name, server))
        done.wait(every_s)


def _sample_of(name: ServerName, server: RunningServer) -> Sample:
    """Raises ServerFailed."""
    try:
        process = psutil.Process(server.pid)
        return Sample(
            at_s=monotonic(),
            server=name,
            rss_bytes=process.memory_info().rss,
            children_bytes=sum(child.memory_info().rss for child in process.children(recursive=True)),
            gauges=read_gauges(server.metrics()),
        )
    except (psutil.Error, ValueError) as error:
        raise ServerFailed(f"{name} server: no sample: {type(error).__name__}: {error}") from error
