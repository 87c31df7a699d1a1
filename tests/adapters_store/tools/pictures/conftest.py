"""A tiny random pipeline that draws, and a folder of three captioned pictures for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from adapters_store.tools.pictures import train
from adapters_store.tools.pictures.options import PictureOptions
from tests.server.runners.tiny_pipelines import Family, save_tiny_pipeline

COLOURS = ("blue", "green", "red")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``pipeline_dir`` keeps one pipeline of each family."""
    return tmp_path_factory.mktemp("pipelines")


def pipeline_dir(pipelines: Path, family: Family) -> Path:
    folder = pipelines / family
    return folder if folder.exists() else save_tiny_pipeline(family, folder)


@pytest.fixture
def model_dir(pipelines: Path) -> Path:
    return pipeline_dir(pipelines, "sd")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return captioned(tmp_path / "pictures")


def captioned(folder: Path) -> Path:
    folder.mkdir()
    for colour in COLOURS:
        picture = Image.new("RGB", (24, 16), colour)
        picture.paste("white", (0, 0, 12, 16))
        picture.save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} half\n")
    return folder


@pytest.fixture(autouse=True)
def _little_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "MEASURED_DRAWS", 16)


@pytest.fixture
def options(model_dir: Path, data: Path, tmp_path: Path) -> PictureOptions:
    return PictureOptions(
        model_dir=model_dir,
        data=data,
        output=tmp_path / "adapter.safetensors",
        resolution=16,
        learning_rate=1e-2,
        max_steps=3,
        batch_size=4,
    )
