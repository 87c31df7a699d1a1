from __future__ import annotations

from pathlib import Path

import pytest

from adapters_store.errors import TrainingRefused
from adapters_store.tools.reproduction.cells import BaseCell, Cell, CellFolder
from adapters_store.tools.reproduction.regime import regime_of
from adapters_store.tools.reproduction.report import write_report
from adapters_store.tools.reproduction.settings import Settings
from adapters_store.tools.reproduction.summary import Spread
from adapters_store.tools.reproduction.tables import render

COMMITTED = Path(__file__).parents[4] / "docs" / "reproduction"


def test_the_committed_results_are_what_the_committed_cells_give() -> None:
    assert (COMMITTED / "results.md").read_text() == render(CellFolder(COMMITTED / "cells").all())


def test_without_cells_the_report_says_so(tmp_path: Path) -> None:
    assert write_report(tmp_path / "out") == [tmp_path / "out" / "results.md"]
    assert "Nothing has been measured yet." in (tmp_path / "out" / "results.md").read_text()


def test_a_file_that_is_no_cell_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "base.json").write_text('{"kind": "base"}')
    with pytest.raises(TrainingRefused, match=r"base.json: expected a cell of the reproduction, got base.key"):
        write_report(tmp_path)


def test_cells_of_two_regimes_are_not_reported_together(settings: Settings) -> None:
    cells: dict[str, Cell] = {key: base_cell(settings, key, base=key) for key in ("base", "other")}
    with pytest.raises(TrainingRefused, match="base: expected base, got other in other"):
        render(cells)


def test_a_cell_is_read_as_it_was_written(settings: Settings, tmp_path: Path) -> None:
    cell = base_cell(settings, "base", base="x")
    folder = CellFolder(tmp_path / "cells")
    folder.write(cell)
    assert folder.find("base", cell.regime) == cell
    assert folder.all() == {"base": cell}
    assert [path.name for path in folder.folder.iterdir()] == ["base.json"]


def test_one_seed_has_no_spread() -> None:
    assert Spread((2.0,)).std is None
    assert Spread((1.0, 3.0)).std == pytest.approx(2**0.5)


def base_cell(settings: Settings, key: str, *, base: str) -> BaseCell:
    losses = {"kjv": 3.0, "python": 2.5, "wordnet": 3.5}
    return BaseCell(
        key=key,
        regime=regime_of(settings, base=base, texts={}, shapes=[(8, 4)]),
        seconds={},
        versions={"torch": "2"},
        machine={"device": "cpu", "cpu": "a", "num_threads": 1},
        validation=losses,
        test=losses,
    )
