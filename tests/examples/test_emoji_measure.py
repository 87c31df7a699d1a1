"""The measurement of concept loss: its arithmetic, and the whole way over a tiny pipeline with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters_store.adapter import Version
from adapters_store.blend import BASE
from examples.emoji.measure import adapters
from examples.emoji.measure.autoencoding import autoencoder_of
from examples.emoji.measure.cells import Z_95, Cell, count, measure, wilson
from examples.emoji.measure.classifier import STYLE_ANSWERS, Classifier, Judged
from examples.emoji.measure.classifier_training import train_classifier
from examples.emoji.measure.frequency import frequency_report, high_share
from examples.emoji.measure.grid import append, grid, read_cells
from examples.emoji.measure.painter import Painter
from examples.emoji.measure.pictures import EMOJI_LIST, GROUPS, STYLES, read_pictures
from examples.emoji.measure.prompts import PROMPTS, Prompt, wishes
from examples.emoji.measure.report import write_report
from examples.emoji.measure.samples import write_samples
from tests.server.runners.tiny_pipelines import save_tiny_pipeline

EMOJI = {  # code: caption, split, category, subcategory
    "1f600": ("grinning face", "train", "Smileys & Emotion", "face-smiling"),
    "1f98a": ("fox", "train", "Animals & Nature", "animal-mammal"),
    "1f34e": ("red apple", "train", "Food & Drink", "food-fruit"),
    "1f680": ("rocket", "train", "Travel & Places", "transport-air"),
    "1f63a": ("grinning cat", "concept", "Smileys & Emotion", "cat-face"),
    "1f63f": ("crying cat", "concept", "Smileys & Emotion", "cat-face"),
}
COMMITTED = Path(__file__).parents[2] / "docs" / "reproduction" / "pictures"
SIZE = 64
ROUNDING = 1e-12


@pytest.mark.parametrize(("hits", "num"), [(0, 200), (1, 200), (100, 200), (173, 200), (200, 200), (3, 4)])
def test_an_interval_ends_where_the_share_seen_is_the_normal_quantile_away(hits: int, num: int) -> None:
    share = wilson(hits, num)
    assert share.value == hits / num
    assert share.low <= share.value + ROUNDING
    assert share.value <= share.high + ROUNDING
    for end in (share.low, share.high):
        assert 0 <= end <= 1
        assert (share.value - end) ** 2 == pytest.approx(Z_95**2 * end * (1 - end) / num, abs=ROUNDING)


def test_of_200_without_a_hit_up_to_two_per_cent_may_be_hits() -> None:
    assert wilson(0, 200) == pytest.approx((0, 0, 0.01885), abs=1e-5)


def test_pictures_are_counted_by_style_by_what_was_asked_and_by_both() -> None:
    cat, apple = Prompt(text="a", group="cat face", kind="new"), Prompt(text="b", group="food", kind="food")
    judged = _judged(("ink", "cat face"), ("ink", "face"), ("twemoji", "food"), ("neither", "cat face"))
    counts = count([cat, cat, apple, apple], judged)
    assert counts["num"] == 4
    assert counts["style"] == {"ink": 2, "twemoji": 1, "neither": 1}
    assert counts["group"] == {"cat face": 2, "face": 1, "food": 1}
    assert counts["as_asked"] == 2
    assert counts["as_asked_in_style"] == {"ink": 1, "twemoji": 1}
    assert counts["by_kind"]["new"]["as_asked_in_style"] == {"ink": 1}


def test_every_picture_of_a_cell_has_a_seed_of_its_own_and_a_full_cell_has_two_hundred() -> None:
    for prompts in PROMPTS.values():
        seeds = [seed for _, (_, seed) in wishes(prompts, 10)]
        assert sorted(seeds) == list(range(200))


def test_the_grid_names_each_cell_once_and_starts_with_the_base() -> None:
    cells = grid()
    assert cells[0].blend({}) == BASE
    assert len({cell.name for cell in cells}) == len(cells)


def test_smooth_changes_have_low_and_chequered_ones_high_frequencies() -> None:
    ramp = torch.cos(torch.arange(8) * (2 * torch.pi / 8)).expand(1, 1, 8, 8)
    chequered = (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)[None])
    assert high_share(ramp) == pytest.approx(0, abs=1e-6)
    assert high_share(chequered[None, None]) == pytest.approx(1)


def test_the_rate_with_the_lowest_held_out_loss_is_taken_for_the_family_and_task() -> None:
    losses = {("rand", 0.1): 3.0, ("rand", 0.2): 1.0, ("lora", 0.1): 1.0, ("lora", 0.2): 2.0}
    rows = [
        {"method": method, "task": task, "learning_rate": rate, "held_out_loss_after": loss}
        for (method, rate), loss in losses.items()
        for task in adapters.SWEPT_TASKS
    ]
    assert adapters.best_rates(rows) == {
        "shira": {"ink": 0.2, "cat": 0.2},
        "lora": {"ink": 0.1, "cat": 0.1},
    }


def test_the_committed_results_are_what_the_committed_cells_give(tmp_path: Path) -> None:
    for path in COMMITTED.glob("*.json*"):
        shutil.copy(path, tmp_path)
    write_report(tmp_path)
    assert (tmp_path / "results.md").read_text() == (COMMITTED / "results.md").read_text()


@pytest.mark.slow
def test_pictures_are_trained_on_drawn_judged_and_reported(tmp_path: Path) -> None:
    model, work, docs = save_tiny_pipeline("sd", tmp_path / "model"), tmp_path / "work", tmp_path / "docs"
    docs.mkdir()
    _write_work(work)
    pictures = read_pictures(work)
    assert GROUPS[int(pictures.groups[4])] == "cat face"
    classifier, told = train_classifier(pictures, autoencoder_of(model), num_folds=2, num_steps=2)
    assert told["autoencoded"]["num_pictures"] == len(EMOJI) * len(STYLES)
    classifier = Classifier.of(classifier.state())
    (docs / "classifier.json").write_text(json.dumps(told))

    painter, versions = Painter(model, num_steps=2), dict[str, Version]()
    recipe = adapters.Recipe(model=model, pictures=work / "pictures", num_steps=1, batch_size=64)
    for method in ("rand", "lora"):
        for row in adapters.train_all(method, work, {"ink": 0.1, "cat": 0.1}, recipe):
            append(docs / "adapters.jsonl", row)
        trained = adapters.read_all(method, work, painter.base)
        append(docs / "overlap.jsonl", adapters.overlap_of(method, "ink", trained))
        versions |= {f"{method}-{task}": painter.add(adapter) for task, adapter in trained.items()}
    num_trained = [json.loads(line)["num_trained"] for line in (docs / "adapters.jsonl").read_text().splitlines()]
    assert len(num_trained) == 6
    assert len(set(num_trained)) == 1, "sparse adapters and LoRA have the same number of parameters"

    wanted = wishes((PROMPTS["cats"][0], PROMPTS["cats"][-1]), 2)
    base = painter.draw(BASE, [wish for _, wish in wanted])
    switches = [cell for cell in grid(("rand",), ()) if cell.fusion == "switch"][:2]
    for cell in [*grid(("rand", "lora"), ())[:9], *switches]:
        row = measure(cell, wanted, painter, classifier, versions)
        assert row["num"] == sum(row["style"].values()) == sum(row["group"].values()) == 4
        append(docs / "cells.jsonl", row)
    assert len(read_cells(docs / "cells.jsonl")) == 11
    styled = Cell(prompts="cats", members=(("rand-ink", 1.0),)).blend(versions)
    assert not torch.equal(painter.draw(styled, [wish for _, wish in wanted]), base)
    assert torch.equal(painter.draw(BASE, [wish for _, wish in wanted]), base)

    write_samples(painter, versions, ["rand"], docs / "samples.png")
    latents = torch.randn(2, 4, SIZE // 2, SIZE // 2)
    frequencies = list(frequency_report(painter, versions, latents, ["a", "b"]))
    assert all(row["change"] > 0 and 0 <= row["high_share"] <= 1 for row in frequencies)
    (docs / "frequency.json").write_text(json.dumps(frequencies))
    write_report(docs)
    assert "| rand |" in (docs / "results.md").read_text()
    assert {path.name for path in docs.glob("*.png")} == {"samples.png", "methods.png", "fusions.png", "strength.png"}


def _judged(*answers: tuple[str, str]) -> Judged:
    styles, groups = torch.zeros(len(answers), len(STYLE_ANSWERS)), torch.zeros(len(answers), len(GROUPS))
    for row, (style, group) in enumerate(answers):
        styles[row, STYLE_ANSWERS.index(style)] = groups[row, GROUPS.index(group)] = 1
    return Judged(styles=styles, groups=groups)


def _write_work(work: Path) -> None:
    """What ``prepare_data.py`` writes, of six emoji that are noise."""
    (work / EMOJI_LIST).parent.mkdir(parents=True)
    entries = [
        {"unified": code.upper(), "category": category, "subcategory": subcategory}
        for code, (_, _, category, subcategory) in EMOJI.items()
    ]
    (work / EMOJI_LIST).write_text(json.dumps(entries))
    captions, splits, _, _ = (np.array(column) for column in zip(*EMOJI.values(), strict=True))
    for style in STYLES:
        images = np.random.default_rng(0).integers(0, 256, (len(EMOJI), SIZE, SIZE, 3), np.uint8)
        np.savez(work / f"{style}.npz", images=images, captions=captions, codes=np.array(list(EMOJI)), splits=splits)
    for folder in {*adapters.TASKS, adapters.PRIOR}:
        (work / "pictures" / folder).mkdir(parents=True)
        lines = []
        for code, caption in zip(EMOJI, captions.tolist(), strict=True):
            Image.fromarray(images[0]).save(work / "pictures" / folder / f"{code}.png")
            lines.append(json.dumps({"file_name": f"{code}.png", "text": caption}))
        (work / "pictures" / folder / "metadata.jsonl").write_text("\n".join(lines))
