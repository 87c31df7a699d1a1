from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters_store.adapter import Adapter, Fingerprint
from adapters_store.errors import AdapterRejected, BlendRejected, TrainingRefused
from adapters_store.format import unpack_positions, write_adapter
from adapters_store.fusion import overlap
from adapters_store.tools.overlap_plot import PANELS, cells_of
from adapters_store.tools.overlap_report import OverlapOptions, overlap_report, render
from tests.adapters_store.adapter_files import SHAPES, container, make_adapter

A = make_adapter({"a.weight": [1, 401, 65_536], "c.weight": [0, 33]}, [1.0, 2.0, 3.0, 4.0, 5.0])
B = make_adapter({"a.weight": [1, 7, 402], "b.weight": [69], "c.weight": [1, 32]}, [-1.0, 2.0, 1.0, 6.0, 2.0, 3.0])
APART = make_adapter({"b.weight": [3]}, [1.0])
STRANGER = make_adapter({"b.weight": [3]}, [1.0], base=Fingerprint("sha256:" + "0" * 64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, adapter in {"a": A, "b": B, "apart": APART, "stranger": STRANGER}.items():
        write_adapter(adapter, tmp_path / f"{name}.safetensors")
    (tmp_path / "peft.safetensors").write_bytes(container({}))
    return tmp_path


def options(folder: Path, *names: str, **changes: Any) -> OverlapOptions:
    return OverlapOptions(adapters=tuple(folder / f"{name}.safetensors" for name in names), **changes)


def dense(adapter: Adapter) -> dict[str, Tensor]:
    """Every weight of SHAPES as a matrix; a vector is one column."""
    deltas = {name: torch.zeros(math.prod(shape), dtype=torch.float64) for name, shape in SHAPES.items()}
    starts = adapter.index_set.entry_starts
    for (entry, flat), start in zip(unpack_positions(adapter.index_set), starts, strict=False):
        deltas[entry.name][flat] = adapter.values[start : start + entry.count].double()
    return {name: deltas[name].view(*(shape if len(shape) == 2 else (-1, 1))) for name, shape in SHAPES.items()}


def test_two_adapters_by_hand(folder: Path) -> None:
    (pair,) = overlap_report(options(folder, "a", "b")).pairs
    assert (pair.shared, pair.only_a, pair.only_b, pair.sign_conflicts) == (1, 4, 5, 1)
    assert pair.jaccard == pytest.approx(1 / 10)
    # a.weight, 400 columns: row 0 of A is {1: 1}, of B {1: −1, 7: 2}; row 1 of A is {1: 2}, of B {2: 1}
    #   AᵀB has (1, 1): −1, (1, 7): 2, (1, 2): 2. b.weight: A is 0 there.
    # c.weight, 32 columns: row 0 of A is {0: 4}, of B {1: 2}; row 1 of A is {1: 5}, of B {0: 3}: 8 and 15
    assert [weight.name for weight in pair.weights] == ["a.weight", "b.weight", "c.weight"]
    assert [weight.awom for weight in pair.weights] == pytest.approx([3.0, 0.0, 17.0])
    assert [weight.awor for weight in pair.weights] == pytest.approx([1 - 3 / 400**2, 1.0, 1 - 2 / 32**2])
    assert pair.awom_mean == pytest.approx(20 / 3)
    assert pair.awom_total == pytest.approx(math.sqrt(9 + 289))
    assert pair.awor_mean == pytest.approx(1 - (3 / 400**2 + 2 / 32**2) / 3)


def test_it_agrees_with_dense_matrices(folder: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    adapters = []
    for name in "xy":
        positions = {
            weight: torch.randperm(math.prod(shape), generator=draw)[: math.prod(shape) // 20].tolist()
            for weight, shape in SHAPES.items()
        }
        count = sum(map(len, positions.values()))
        adapters.append(make_adapter(positions, torch.randn(count, generator=draw)))
        write_adapter(adapters[-1], folder / f"{name}.safetensors")
    (pair,) = overlap_report(options(folder, "x", "y")).pairs
    x, y = map(dense, adapters)
    products = [x[name].T @ y[name] for name in SHAPES]
    assert [weight.awom for weight in pair.weights] == pytest.approx([float(product.norm()) for product in products])
    assert [weight.awor for weight in pair.weights] == pytest.approx(
        [1 - int(product.count_nonzero()) / product.numel() for product in products]
    )
    assert pair.delta_cosine == overlap(*adapters).delta_cosine


def test_every_pair_is_told_once_and_adapters_apart_are_orthogonal(folder: Path) -> None:
    report = overlap_report(options(folder, "a", "b", "apart"))
    assert [(pair.a, pair.b) for pair in report.pairs] == [("a", "b"), ("a", "apart"), ("b", "apart")]
    assert report.versions == {"a": A.version, "b": B.version, "apart": APART.version}
    apart = report.pairs[1]
    assert (apart.shared, apart.jaccard, apart.delta_cosine) == (0, 0.0, 0.0)
    assert (apart.awom_total, apart.awor_mean) == (0.0, 1.0)
    assert report.pairs[2].awom_total == 0.0
    assert all(name in render(report) for name in ("a × b", "a × apart", "Jaccard", "AWOM"))


def test_the_heat_maps_are_symmetric_and_blank_where_there_is_nothing_to_tell(folder: Path) -> None:
    plot = folder / "overlap.png"
    report = overlap_report(options(folder, "a", "b", "apart", plot=plot))
    assert plot.read_bytes().startswith(b"\x89PNG")
    cosine, _, conflicts, _ = (torch.tensor(cells_of(report, panel)) for panel in PANELS)
    torch.testing.assert_close(cosine, cosine.T, equal_nan=True)
    assert cosine.diagonal().isnan().all()
    assert cosine[0, 1] == pytest.approx(report.pairs[0].delta_cosine)
    assert conflicts[0].isnan().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("a",), BlendRejected, "expected at least two adapters, got 1"),
        (("a", "a"), BlendRejected, "given twice"),
        (("a", "stranger"), BlendRejected, "stranger is made for the base"),
        (("a", "peft"), AdapterRejected, "peft.safetensors: "),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    folder: Path, names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        overlap_report(options(folder, *names))


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingRefused, match="plot: expected a file in a directory that exists"):
        overlap_report(options(folder, "none", "b", plot=folder / "nowhere" / "o.png"))
    with pytest.raises(TrainingRefused, match=r"plot: expected another file than what is read \(b\.safetensors\)"):
        overlap_report(options(folder, "a", "b", plot=folder / "b.safetensors"))
    monkeypatch.setattr("adapters_store.tools.plotting.find_spec", lambda name: None)
    with pytest.raises(TrainingRefused, match=r"shira-server\[train\]"):
        overlap_report(options(folder, "none", "b", plot=folder / "o.png"))
