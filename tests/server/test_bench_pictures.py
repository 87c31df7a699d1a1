"""The whole command on tiny random pipelines; what its contenders do is what they say. No test looks at the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapters_store.adapter import Adapter, Version
from adapters_store.tools import bench_timing
from server.bench_pictures.drawing import IN_ORDER, IN_TURN, TOGETHER
from server.bench_pictures.lora import PHASES, LoraRival
from server.bench_pictures.options import PicturesOptions, Targets
from server.bench_pictures.rows import Row
from server.bench_pictures.sources import HostOrFile
from server.bench_pictures.subject import Subject, subject_of_unet
from server.bench_pictures.switching import (
    ENTER,
    FIRST_USE,
    FROM_FILE,
    RESTORE,
    SWITCH,
    measure_switching,
    our_cycles,
    verify,
)
from server.bench_pictures.unets import empty_unet
from server.cli.root import run
from tests.server.runners.tiny_pipelines import Family, save_tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_timing, "last_level_cache_bytes", lambda: 1 << 17)


@pytest.fixture
def subject() -> Subject:
    return subject_of_unet("tiny", seed=0, targets="all")


@pytest.mark.parametrize(("family", "unet"), [("sd", "tiny"), pytest.param("sdxl", "none", marks=pytest.mark.slow)])
def test_the_command_prints_and_writes_every_row_and_nothing_exact_is_missed(
    family: Family, unet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_pipeline(family, tmp_path / "small")
    file = tmp_path / "rows.jsonl"
    common = ["--unet", unet, "--steps", "3", "--rounds", "1", "--switches", "5", "--sparsity", "0.1", "--seed", "7"]
    assert run(["bench", "pictures", "--model", str(model), *common, "--json", str(file)]) == 0

    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        assert row["what"] in printed
        assert {"seed": 7, "sparsity": 0.1}.items() <= row.items()
        assert {"torch", "peft", "cpu"} <= row["machine"].keys()
    by_group: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_group.setdefault(row["group"], {})[row["what"]] = row
    subjects = [str(model)] + ["tiny U-Net, random"] * (unet != "none")
    assert [name for name in by_group if name.startswith("switching")] == [f"switching, {name}" for name in subjects]
    for name in subjects:
        switching = by_group[f"switching, {name}"]
        assert {ENTER, RESTORE, SWITCH, FIRST_USE, FROM_FILE} <= switching.keys()
        assert switching[SWITCH]["ratio"] == 1
        for targets in ("attention", "all"):
            asked = {what.rpartition(f" of {targets}: ")[2]: row["at_least"] for what, row in switching.items()}
            assert asked | dict.fromkeys(PHASES) | {"all four": 20} == asked
        assert switching["ours: weights that differ from what was loaded"]["is_met"]
    turns = by_group["turns, four requests of four blends"]
    assert {IN_TURN, IN_ORDER} <= turns.keys()
    assert turns["images equal to those drawn alone"]["value"] == 4
    assert turns["  denoising steps of all before it was there"]["value"] <= 4 * 3 - 3
    assert TOGETHER in by_group["batches, four requests of one blend"]
    composed = [name for name in by_group["composition step by step"] if name.startswith("a step")]
    assert composed == [
        "a step: one adapter",
        *(f"a step: {method}, {number} adapters" for method in ("switch", "composite") for number in (2, 3)),
    ]
    base = by_group["what is left of the base"]
    assert base["switches between denoising steps"]["value"] >= 5
    assert base["weights that differ from what was loaded"]["is_met"]
    assert len({(row["digest_before"], row["digest_after"]) for row in base.values()}) == 1
    assert all(row["digest_before"] == row["digest_after"] for row in base.values())


def test_each_of_our_cycles_ends_with_the_base_and_only_first_uses_ask_for_bytes(
    subject: Subject, tmp_path: Path
) -> None:
    class Counting(HostOrFile):
        asked: list[tuple[Version, bool]]

        def acquire(self, version: Version) -> Adapter:
            self.asked.append((version, self.is_on_host))
            return super().acquire(version)

    _, b = adapters = [subject.random_adapter(sparsity=0.02, seed=seed) for seed in range(2)]
    source = Counting(adapters, tmp_path)
    source.asked = []
    asked: dict[str, list[tuple[Version, bool]]] = {}
    cycles = our_cycles(subject, adapters, source)
    for cycle in [*cycles, *cycles]:  # the second time all is staged
        for step in cycle.steps:
            source.asked.clear()
            step.run()
            if step.label:
                asked[step.label] = list(source.asked)
        assert verify(subject).ok
    assert asked == {
        ENTER: [],
        RESTORE: [],
        SWITCH: [],
        FIRST_USE: [(b.version, True)],
        FROM_FILE: [(b.version, False)],
    }


def test_an_adapter_from_a_file_is_the_one_that_was_written(subject: Subject, tmp_path: Path) -> None:
    adapter = subject.random_adapter(sparsity=0.02, seed=3)
    source = HostOrFile([adapter], tmp_path)
    source.is_on_host = False
    read = source.acquire(adapter.version)
    assert read is not adapter
    assert read.index_set.digest == adapter.index_set.digest
    assert torch.equal(read.values, adapter.values)


def rival_of(subject: Subject, folder: Path, targets: Targets, *, rank: int | None, num_params: int = 0) -> LoraRival:
    originals = {name: tensor.clone() for name, tensor in subject.tensors.items()}
    return LoraRival(subject, originals, folder, targets=targets, rank=rank, num_params=num_params, seed=0)


@pytest.mark.parametrize(
    ("targets", "module", "is_fused"),
    [
        ("attention", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", True),
        ("attention", "mid_block.resnets.0.conv1", False),
        ("all", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", True),
        ("all", "mid_block.resnets.0.conv1", True),
    ],
)
@torch.no_grad()
def test_diffusers_fuses_the_product_of_the_factors_into_the_subjects_own_weights(
    subject: Subject, targets: Targets, module: str, is_fused: bool, tmp_path: Path
) -> None:
    rival = rival_of(subject, tmp_path, targets, rank=2)
    load, fuse, unfuse, unload, mend = (step.run for step in rival.through_the_weights().steps)
    weight = subject.tensors[f"unet.{module}.weight"]
    before = weight.clone()
    num_modules = len(list(subject.denoiser.modules()))

    load()
    assert torch.equal(weight, before)
    expected = before
    if is_fused:
        down, up = (subject.denoiser.get_parameter(f"{module}.lora_{factor}.one.weight") for factor in "AB")
        expected = before + torch.einsum("or,ri...->oi...", up.flatten(1), down)
    fuse()
    assert torch.allclose(weight, expected, rtol=2**-7, atol=0)  # a rounding more or less
    assert torch.equal(weight, before) is not is_fused
    unfuse()
    unload()
    assert len(list(subject.denoiser.modules())) == num_modules
    mend()
    assert 0 < rival.share_changed < 1
    assert verify(subject).ok


def test_lora_has_as_many_parameters_as_the_sparse_adapter_as_nearly_as_its_rank_allows(
    subject: Subject, tmp_path: Path
) -> None:
    per_rank = rival_of(subject, tmp_path / "of-rank-1", "all", rank=1).num_params
    rival = rival_of(subject, tmp_path / "matched", "all", rank=None, num_params=10 * per_rank + 3)
    assert (rival.rank, rival.num_params) == (10, 10 * per_rank)
    file = tmp_path / "matched" / "one" / "pytorch_lora_weights.safetensors"
    assert sum(tensor.numel() for tensor in load_file(file).values()) == rival.num_params


@pytest.mark.slow
def test_the_unet_has_the_parameters_of_stable_diffusion_xl() -> None:
    assert sum(parameter.numel() for parameter in empty_unet("sdxl").parameters()) == 2_567_463_684


@pytest.mark.parametrize(
    ("ratio", "at_least", "at_most", "is_met"),
    [
        (20.0, 20, None, True),
        (19.9, 20, None, False),
        (1.1, None, 1.1, True),
        (1.2, None, 1.1, False),
        (1.2, None, None, None),
        (None, 20, None, None),
    ],
)
def test_a_row_says_whether_what_was_asked_is_met(
    ratio: float | None, at_least: float | None, at_most: float | None, is_met: bool | None
) -> None:
    row = Row(what="", value=1, unit="ms", ratio=ratio, at_least=at_least, at_most=at_most)
    assert row.is_met is is_met


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--model", ".", "--json", "nowhere/rows.jsonl"], "nowhere/rows.jsonl"),
        (["--model", ".", "--unet", "huge"], "huge"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_starts(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "pictures", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_both_sides_can_be_held_to_the_attention_projections() -> None:
    everything, attention = (subject_of_unet("tiny", seed=0, targets=targets) for targets in ("all", "attention"))
    assert attention.tensors.keys() < everything.tensors.keys()
    assert all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0") for name in attention.tensors)
    adapter = attention.random_adapter(sparsity=0.1, seed=0)
    assert {entry.name for entry in adapter.index_set.table} <= attention.tensors.keys()
    group = measure_switching(attention, PicturesOptions(model_dir=Path(), num_rounds=1, targets="attention"))
    assert any("of attention: all four" in row.what for row in group.rows)
    assert not any("of all" in row.what for row in group.rows)
