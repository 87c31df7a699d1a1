"""A small world: the tiny model of the folder above, three small texts, two steps a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from adapters_store.tools.reproduction.plan import DOMAINS
from adapters_store.tools.reproduction.settings import Settings

WORDS = {"kjv": ("abc ", "def "), "python": ("gh ", "ab "), "wordnet": ("fe ", "dc ")}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for domain in DOMAINS:
        draw = random.Random(domain)
        (folder / f"{domain}.txt").write_text("".join(draw.choice(WORDS[domain]) for _ in range(600)))
    return folder


@pytest.fixture
def settings(model_dir: Path, data_dir: Path, tmp_path: Path) -> Settings:
    return small_settings(model_dir, data_dir, tmp_path)


def small_settings(model_dir: Path, data_dir: Path, folder: Path) -> Settings:
    return Settings(
        model_dir=model_dir,
        data_dir=data_dir,
        output_dir=folder / "out",
        work_dir=folder / "work",
        steps=2,
        batch_size=2,
        sequence_length=16,
        num_validation=4,
        num_test=6,
        calibration_examples=4,
        seeds=(0,),
    )
