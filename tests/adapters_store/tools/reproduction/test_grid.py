from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from adapters_store.errors import TrainingRefused
from adapters_store.tools.reproduction.cells import AloneCell, BaseCell, FusedCell, SweepCell
from adapters_store.tools.reproduction.grid import run_grid
from adapters_store.tools.reproduction.plan import DOMAINS, METHODS, alone_key, fused_key
from adapters_store.tools.reproduction.report import write_report
from adapters_store.tools.reproduction.settings import Settings

from .conftest import small_settings

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks


@pytest.fixture(scope="module")
def finished(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a grid that ran to its end, every method once."""
    settings = small_settings(model_dir, data_dir, tmp_path_factory.mktemp("grid"))
    list(run_grid(settings))
    return settings


def test_the_cells_that_matter_most_come_first_and_are_on_disk_when_they_are_told(settings: Settings) -> None:
    for cell in islice(run_grid(settings), 2):
        assert json.loads((settings.cells_dir / f"{cell.key}.json").read_bytes())["key"] == cell.key
    assert sorted(path.name for path in settings.cells_dir.iterdir()) == [
        "base.json",
        "sweep-lora-kjv-s100-lr0.001.json",
    ]


def test_cells_of_another_regime_are_refused_and_kept(settings: Settings) -> None:
    (base,) = islice(run_grid(settings), 1)
    path = settings.cells_dir / f"{base.key}.json"
    before = path.read_bytes()
    with pytest.raises(TrainingRefused, match=r"steps: expected 2, as in the finished base.json .*got 3"):
        next(run_grid(replace(settings, steps=3)))
    assert path.read_bytes() == before


def test_a_missing_text_is_refused_by_name(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingRefused, match=r"data: expected a text for each of kjv, python, wordnet, got .*kjv\.txt"
    ):
        next(run_grid(replace(settings, data_dir=tmp_path)))
    assert not settings.cells_dir.exists()


def test_without_peft_it_says_what_to_install_and_without_lora_it_is_not_needed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingRefused, match=r"shira-server\[bench\]"):
        next(run_grid(settings))
    assert next(run_grid(replace(settings, methods=("wm",)))).key == "base"


@pytest.mark.slow
def test_every_method_is_measured_alone_and_fused(finished: Settings) -> None:
    cells = {path.stem for path in finished.cells_dir.glob("*.json")}
    for method in METHODS:
        assert {alone_key(method, domain, 0) for domain in DOMAINS} <= cells
        assert fused_key(method, 0) in cells
    assert not list(run_grid(finished))


@pytest.mark.slow
def test_every_adapter_alone_lowers_the_loss_of_its_own_domain(finished: Settings) -> None:
    base = BaseCell.model_validate_json((finished.cells_dir / "base.json").read_bytes())
    for method in METHODS:
        for domain in DOMAINS:
            text = (finished.cells_dir / f"{alone_key(method, domain, 0)}.json").read_bytes()
            cell = AloneCell.model_validate_json(text)
            assert cell.test[domain] < base.test[domain], cell.key
            assert (cell.test_unmerged is None) == (method.mask is not None)


@pytest.mark.slow
def test_disjoint_masks_share_nothing_and_their_ram_is_their_sum(finished: Settings) -> None:
    cell = FusedCell.model_validate_json((finished.cells_dir / "fused-wm-disjoint-s0.json").read_bytes())
    assert [pair.shared for pair in cell.pairs] == [0, 0, 0]
    assert cell.fusions["ram"].test == cell.fusions["sum"].test


@pytest.mark.slow
def test_the_best_rate_of_the_sweep_is_the_rate_of_the_grid(finished: Settings) -> None:
    sweeps = [SweepCell.model_validate_json(path.read_bytes()) for path in finished.cells_dir.glob("sweep-snip-*")]
    best = min(sweeps, key=lambda cell: cell.validation or 0.0)
    for method in ("snip", "grad"):
        text = (finished.cells_dir / f"alone-{method}-python-s0.json").read_bytes()
        assert AloneCell.model_validate_json(text).learning_rate == best.learning_rate


@pytest.mark.slow
def test_a_lost_adapter_is_trained_again_and_the_fused_cell_comes_out_the_same(
    finished: Settings, tmp_path: Path
) -> None:
    output_dir = tmp_path / "out"
    shutil.copytree(finished.output_dir, output_dir)
    path = output_dir / "cells" / "fused-rand-s0.json"
    before = FusedCell.model_validate_json(path.read_bytes())
    path.unlink()
    again = list(run_grid(replace(finished, output_dir=output_dir, work_dir=tmp_path / "empty")))
    assert [cell.key for cell in again] == ["fused-rand-s0"]
    after = FusedCell.model_validate_json(path.read_bytes())
    assert (after.retrained, after.adapters, after.fusions) == ([], before.adapters, before.fusions)


@pytest.mark.slow
def test_the_report_shows_every_cell_and_is_the_same_each_time(finished: Settings) -> None:
    written = write_report(finished.output_dir)
    text = (finished.output_dir / "results.md").read_text()
    assert {path.name for path in written} == {"results.md", "alone.png", "fused.png", "alpha.png"}
    assert all(f"({path.name})" in text for path in written[1:])
    assert all(f"| {method.name} |" in text for method in METHODS)
    write_report(finished.output_dir)
    assert (finished.output_dir / "results.md").read_text() == text


@pytest.mark.slow
def test_after_a_kill_only_what_is_missing_is_measured(settings: Settings) -> None:
    settings = replace(settings, methods=("rand",))
    running = multiprocessing.get_context("spawn").Process(target=measure_all, args=(settings,))
    running.start()
    try:
        finished = wait_for_cells(settings, 5)
    finally:
        running.kill()
        running.join()
    before = {path: path.stat().st_mtime_ns for path in settings.cells_dir.glob("*.json")}
    assert set(finished) <= set(before)
    measured = [cell.key for cell in run_grid(settings)]
    assert measured[-1] == fused_key(METHODS[2], 0)
    assert not {path.stem for path in before} & set(measured)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(run_grid(settings))


def measure_all(settings: Settings) -> None:
    for _ in run_grid(settings):
        pass


def wait_for_cells(settings: Settings, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while len(cells := sorted(settings.cells_dir.glob("*.json"))) < count:
        assert time.monotonic() < deadline, cells
        time.sleep(0.02)
    return cells
