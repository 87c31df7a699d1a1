"""The whole run: switching, turns, composition, and what is left of the base."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import TextIO

import torch

from adapters_store.kernels import get_kernels
from adapters_store.tools.bench_report import machine
from server.bench_pictures.drawing import NUM_REQUESTS, measure_composition, measure_turns, switch_often
from server.bench_pictures.engine import running_engine
from server.bench_pictures.options import PicturesOptions
from server.bench_pictures.rows import Group, Row, as_json, as_table
from server.bench_pictures.subject import Subject, subject_of_pipeline, subject_of_unet
from server.bench_pictures.switching import measure_switching, verify
from server.runners.pipeline_loading import LoadedPipeline, load_pipeline


def run(options: PicturesOptions, *, json_file: TextIO | None = None) -> list[Group]:
    """Prints and writes each group as it is measured. Raises ModelNotLoadable."""
    common = {
        "seed": options.seed,
        "sparsity": options.sparsity,
        "num_threads": torch.get_num_threads(),
        "kernels": get_kernels().name,
        "machine": machine(),
    }
    print(json.dumps(common))
    groups = []
    for group in measure(options):
        print(f"\n{as_table(group)}", flush=True)
        groups.append(group)
        if json_file is not None:
            json_file.writelines(f"{json.dumps(row)}\n" for row in as_json(group, common))
            json_file.flush()
    return groups


def measure(options: PicturesOptions) -> Iterator[Group]:
    loaded = load_pipeline(options.model_dir, name=str(options.model_dir), dtype=options.dtype, device="cpu")
    subject = subject_of_pipeline(loaded, targets=options.targets)
    yield measure_switching(subject, options)
    yield from _measure_drawing(loaded, subject, options)
    if options.unet is not None:
        del loaded, subject
        gc.collect()
        yield measure_switching(subject_of_unet(options.unet, seed=options.seed, targets=options.targets), options)


def _measure_drawing(loaded: LoadedPipeline, subject: Subject, options: PicturesOptions) -> Iterator[Group]:
    adapters = [
        subject.random_adapter(sparsity=options.sparsity, seed=options.seed + number) for number in range(NUM_REQUESTS)
    ]
    with running_engine(loaded, adapters) as engine:
        yield from measure_turns(engine, adapters, options)
        yield measure_composition(engine, adapters, options)
        num_switches = switch_often(engine, adapters, options)
    yield _left_of_the_base(subject, num_switches, options)


def _left_of_the_base(subject: Subject, num_switches: int, options: PicturesOptions) -> Group:
    report = verify(subject)
    rows = [
        Row(
            what="switches between denoising steps",
            value=num_switches,
            unit="switches",
            ratio=num_switches / options.num_switches,
            to=f"{options.num_switches:,}",
            at_least=1,
        ),
        Row(
            what="weights that differ from what was loaded",
            value=len(report.mismatched),
            unit="weights",
            ratio=float(len(report.mismatched)),
            to="one weight",
            at_most=0,
        ),
    ]
    conditions = {"num_bytes": report.num_bytes, "digest_before": report.expected, "digest_after": report.digest}
    return Group(name="what is left of the base", conditions=conditions, rows=rows)
