"""The adapters that are compared: of each method a style and a concept, with one number of parameters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adapters_store.adapter import Adapter
from adapters_store.base import BaseDescription
from adapters_store.format import read_adapter, write_adapter
from adapters_store.fusion import overlap
from adapters_store.tools.native_files import SUFFIX
from adapters_store.tools.pictures.lora import train_lora
from adapters_store.tools.pictures.train import PictureOptions, train_pictures

METHODS = ("wm", "rand", "struct", "grad", "snip", "lora")
TASKS = ("ink", "noto", "cat")  # two styles and a concept: folders of WORK/pictures
CONCEPT_TASK = "cat"
PRIOR = "twemoji"  # what the base should go on drawing while it learns a concept: every second picture
HELD_OUT = {"ink": 0.05, "noto": 0.05, "cat": 0.2}
RANK = 2
STRUCT_SHARE = 0.0192  # of each weight, what rank 2 comes to over the emoji model; struct takes whole lines of it
SWEPT = {"rand": "shira", "lora": "lora"}  # and the family that they choose the rate of
SWEPT_TASKS = ("ink", "cat")  # noto borrows the rate of ink
LEARNING_RATES = {"shira": (1e-2, 3e-2, 1e-1), "lora": (3e-3, 1e-2, 3e-2)}
SWEEP_SHARE = 0.6  # of the steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """``pictures``: the folder of the folders that adapters are trained on."""

    model: Path
    pictures: Path
    num_steps: int = 250
    batch_size: int = 16
    rank: int = RANK
    seed: int = 0


def train_all(
    method: str, folder: Path, rates: Mapping[str, float], recipe: Recipe, tasks: Sequence[str] = TASKS
) -> list[dict[str, Any]]:
    """Writes ``folder/<method>-<task>.safetensors``, those that are not there yet; returns what is to be known of their
    making. ``rates``: the learning rate of each swept task."""
    reports = []
    for task in tasks:
        output = folder / f"{method}-{task}{SUFFIX}"
        if not output.exists():
            folder.mkdir(parents=True, exist_ok=True)
            reports.append(
                {
                    "method": method,
                    "task": task,
                    **_train(method, task, output, rates.get(task, rates[SWEPT_TASKS[0]]), recipe),
                }
            )
    return reports


def sweep(folder: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """The loss on held-out pictures after training at each learning rate, with another seed than the grid's."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for (method, family), task in product(SWEPT.items(), SWEPT_TASKS):
        for rate in LEARNING_RATES[family]:
            output = folder / f"{method}-{task}-{rate:g}{SUFFIX}"
            shorter = replace(recipe, seed=recipe.seed + 1, num_steps=round(SWEEP_SHARE * recipe.num_steps))
            report = _train(method, task, output, rate, shorter)
            rows.append({"method": method, "task": task, **report})
            output.unlink()
    return rows


def best_rates(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By family and task: of the lowest held-out loss, averaged over the methods of the family."""
    losses: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows:
        by_rate = losses.setdefault((SWEPT[row["method"]], row["task"]), {})
        by_rate.setdefault(row["learning_rate"], []).append(row["held_out_loss_after"])
    best: dict[str, dict[str, float]] = {}
    for (family, task), by_rate in losses.items():
        best.setdefault(family, {})[task] = min(by_rate, key=lambda rate: sum(by_rate[rate]) / len(by_rate[rate]))
    return best


def family_of(method: str) -> str:
    return "lora" if method == "lora" else "shira"


def read_all(method: str, folder: Path, base: BaseDescription) -> dict[str, Adapter]:
    return {task: read_adapter(folder / f"{method}-{task}{SUFFIX}", base=base).adapter for task in TASKS}


def overlap_of(method: str, task: str, trained: Mapping[str, Adapter]) -> dict[str, Any]:
    """How the supports of the style ``task`` and the concept lie to each other."""
    style, concept = trained[task], trained[CONCEPT_TASK]
    return {
        "method": method,
        "task": task,
        "style_entries": style.index_set.num_entries,
        "concept_entries": concept.index_set.num_entries,
        "style_norm": round(float(style.values.float().norm()), 4),
        "concept_norm": round(float(concept.values.float().norm()), 4),
        **asdict(overlap(style, concept)),
    }


def _train(method: str, task: str, output: Path, rate: float, recipe: Recipe) -> dict[str, Any]:
    seed = recipe.seed + (method == "rand" and task == CONCEPT_TASK)  # or both adapters would have the same random mask
    options = PictureOptions(
        model_dir=recipe.model,
        data=recipe.pictures / task,
        output=output,
        mask="wm" if method == "lora" else method,  # type: ignore[arg-type]
        rank=None if method == "struct" else recipe.rank,
        sparsity=STRUCT_SHARE,
        learning_rate=rate,
        max_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        seed=seed,
        held_out=HELD_OUT[task],
        prior_data=recipe.pictures / PRIOR if task == CONCEPT_TASK else None,
        snr_gamma=5.0,
        checkpoint_steps=recipe.num_steps,
    )
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache would keep weights from before a step
        report: Any = train_lora(options) if method == "lora" else train_pictures(options)
    if method == "lora":
        write_adapter(report.adapter, output)
    return {
        "learning_rate": rate,
        "steps": recipe.num_steps,
        "seed": seed,
        "num_trained": report.num_trained,
        "held_out_loss_before": round(report.held_out_loss_before, 5),
        "held_out_loss_after": round(report.held_out_loss_after, 5),
        "cpu_s": round(time.process_time() - started, 1),
    }
