from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adapters_store.tools.applied import applied
from adapters_store.tools.fit import fit
from adapters_store.tools.pictures.lora import matched_rank, train_lora
from adapters_store.tools.pictures.options import PictureOptions
from adapters_store.tools.pictures.train import picture_lesson, train_pictures
from adapters_store.tools.sparse_parametrisation import SparseParametrisation


@pytest.fixture
def options(options: PictureOptions) -> PictureOptions:
    return replace(options, max_steps=10, rank=1)


def test_its_delta_in_the_weights_has_the_loss_of_the_factors_beside_them(options: PictureOptions) -> None:
    lora = train_lora(options)
    _, lesson = picture_lesson(options)
    assert lesson.measure() == pytest.approx(lora.held_out_loss_before)
    with applied(lesson.model, [(lora.adapter, 1.0)]):
        assert lesson.measure() == pytest.approx(lora.held_out_loss_after, rel=1e-4)
    assert lora.held_out_loss_after < lora.held_out_loss_before - 0.01
    assert lora.outcome.num_steps == 10


def test_it_has_as_many_parameters_as_the_sparse_adapter_and_begins_on_the_same_draws(
    options: PictureOptions,
) -> None:
    lora, report = train_lora(options), train_pictures(options)
    assert lora.num_trained == report.num_trained
    assert not list(options.output.parent.glob("*lora*"))
    counted, lesson = picture_lesson(options)
    with SparseParametrisation(lesson.model, lora.adapter.index_set):
        sparse = fit(lesson.model, lesson.training, counted)
    assert sparse.losses[0] == pytest.approx(lora.outcome.losses[0], rel=1e-4)  # both are the base yet


def test_the_rank_is_the_one_whose_parameters_are_nearest_to_the_sparsity(options: PictureOptions) -> None:
    assert matched_rank([torch.Size([100, 100]), torch.Size([50, 10, 3, 3])], 0.02) == 1
    assert matched_rank([torch.Size([640, 640, 3, 3])], 0.02) == 12  # 11.52
    assert train_lora(replace(options, rank=None, sparsity=0.4, max_steps=1)).rank > 1


def test_the_seed_draws_the_factors(options: PictureOptions) -> None:
    options = replace(options, max_steps=2)
    first, again, other = (train_lora(replace(options, seed=seed)).adapter.version for seed in (0, 0, 1))
    assert first == again != other
