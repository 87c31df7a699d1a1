"""Measures concept loss on the emoji model: a style and a concept adapter of each method, alone and together.

    python -m examples.emoji.measure all --model examples/emoji/model --work .cache/emoji

Needs what ``prepare_data.py`` writes to WORK. The steps can also be run by themselves, in this order: ``classifier``,
``sweep``, ``train``, ``draw``, ``samples``, ``frequency``, ``report``. Adapters and classifier go to WORK/measure,
figures to docs/reproduction/pictures; ``train`` and ``draw`` go on where they were stopped. ``draw --part 0/2`` and
``--part 1/2`` share the cells between two processes.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from examples.emoji.measure import adapters
from examples.emoji.measure.autoencoding import autoencoder_of, latents_of
from examples.emoji.measure.cells import measure
from examples.emoji.measure.classifier import Classifier
from examples.emoji.measure.classifier_training import train_classifier
from examples.emoji.measure.frequency import NUM_LATENTS, frequency_report
from examples.emoji.measure.grid import STYLE_TASKS, SWEPT, append, grid, read_cells
from examples.emoji.measure.painter import Painter
from examples.emoji.measure.pictures import read_pictures
from examples.emoji.measure.prompts import PROMPTS, wishes
from examples.emoji.measure.report import write_report
from examples.emoji.measure.samples import write_samples

DOCS = Path("docs/reproduction/pictures")
PACKAGES = ("torch", "diffusers", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    model: Path
    work: Path
    docs: Path
    folds: int
    classifier_steps: int
    adapter_steps: int
    drawing_steps: int
    seeds: int
    methods: tuple[str, ...]
    part: tuple[int, int]

    @property
    def made(self) -> Path:
        return self.work / "measure"

    @property
    def cells(self) -> Path:
        return self.docs / "cells.jsonl"

    @property
    def recipe(self) -> adapters.Recipe:
        return adapters.Recipe(model=self.model, pictures=self.work / "pictures", num_steps=self.adapter_steps)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["all", *STEPS])
    parser.add_argument("--model", type=Path, default=Path("examples/emoji/model"))
    parser.add_argument("--work", type=Path, default=Path(".cache/emoji"))
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--classifier-steps", type=int, default=1000)
    parser.add_argument("--adapter-steps", type=int, default=250)
    parser.add_argument("--drawing-steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=10, help="pictures of each prompt")
    parser.add_argument("--methods", nargs="+", default=adapters.METHODS, choices=adapters.METHODS)
    parser.add_argument("--part", type=_part, default=(0, 1))
    parsed = vars(parser.parse_args(arguments))
    step = parsed.pop("step")
    options = Options(**{**parsed, "methods": tuple(parsed["methods"])})
    options.made.mkdir(parents=True, exist_ok=True)
    options.docs.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    for name in STEPS if step == "all" else [step]:
        STEPS[name](options)


def make_classifier(options: Options) -> None:
    classifier, report = train_classifier(
        read_pictures(options.work),
        autoencoder_of(options.model),
        num_folds=options.folds,
        num_steps=options.classifier_steps,
    )
    torch.save(classifier.state(), options.made / "classifier.pt")
    _write(options, "classifier", report)


def sweep(options: Options) -> None:
    rows = adapters.sweep(options.made / "sweep", options.recipe)
    _write(options, "sweep", rows)


def train(options: Options) -> None:
    """The learning rates are those that the sweep found."""
    rates = adapters.best_rates(json.loads((options.docs / "sweep.json").read_text()))
    painter = Painter(options.model)
    for method in options.methods:
        for report in adapters.train_all(method, options.made, rates[adapters.family_of(method)], options.recipe):
            append(options.docs / "adapters.jsonl", report)
        trained = adapters.read_all(method, options.made, painter.base)
        for task in STYLE_TASKS:
            append(options.docs / "overlap.jsonl", adapters.overlap_of(method, task, trained))


def draw(options: Options) -> None:
    painter, versions = _painter(options)
    classifier = Classifier.of(torch.load(options.made / "classifier.pt", weights_only=True))
    part, num_parts = options.part
    for number, cell in enumerate(grid(options.methods)):
        if number % num_parts == part and cell.name not in read_cells(options.cells):
            wanted = wishes(PROMPTS[cell.prompts], options.seeds)
            row = measure(cell, wanted, painter, classifier, versions)
            append(options.cells, row)
            print(f"{cell.name}: {row['as_asked']} of {row['num']}, {row['as_asked_in_style']}", flush=True)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    packages = {name: version(name) for name in PACKAGES}
    _write(options, "run", {"base": painter.base.fingerprint, "machine": machine, "packages": packages})


def samples(options: Options) -> None:
    painter, versions = _painter(options)
    write_samples(
        painter, versions, [method for method in SWEPT if method in options.methods], options.docs / "samples.png"
    )


def frequency(options: Options) -> None:
    painter, versions = _painter(options)
    latents, captions = latents_of(options.model, options.work, NUM_LATENTS)
    _write(options, "frequency", list(frequency_report(painter, versions, latents, captions)))


def report(options: Options) -> None:
    write_report(options.docs)


STEPS = {
    "classifier": make_classifier,
    "sweep": sweep,
    "train": train,
    "draw": draw,
    "samples": samples,
    "frequency": frequency,
    "report": report,
}


def _painter(options: Options) -> tuple[Painter, dict[str, Any]]:
    """With every adapter in it, and their versions by name."""
    painter, versions = Painter(options.model, num_steps=options.drawing_steps), {}
    for method in options.methods:
        for task, adapter in adapters.read_all(method, options.made, painter.base).items():
            versions[f"{method}-{task}"] = painter.add(adapter)
    return painter, versions


def _write(options: Options, name: str, content: Any) -> None:
    (options.docs / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _part(text: str) -> tuple[int, int]:
    part, _, num_parts = text.partition("/")
    return int(part), int(num_parts)


if __name__ == "__main__":
    main()
