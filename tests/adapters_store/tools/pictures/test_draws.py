from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from adapters_store.tools.pictures.draws import NO_CAPTION, Draws, EncodedPictures


def encoded(count: int, *, views: int = 1, first_caption: int = 1) -> EncodedPictures:
    """Latents hold the number of the picture, negative in its mirror image."""
    numbers = torch.arange(1.0, count + 1)
    latents = torch.stack([numbers, -numbers][:views], dim=1)[:, :, None, None, None].expand(-1, -1, 2, 3, 3)
    return EncodedPictures(latents=latents, captions=torch.arange(first_caption, first_caption + count))


def every(draws: Draws) -> list[dict[str, Tensor]]:
    return [draws[number] for number in range(len(draws))]


def pictures_of(draws: Draws) -> list[float]:
    return [float(draw["latents"][0, 0, 0]) for draw in every(draws)]


def test_a_draw_is_known_by_its_number_and_the_seed() -> None:
    draws, again, other = (Draws(encoded(3), 20, seed=seed, caption_dropout=0.5) for seed in (4, 4, 5))
    torch.manual_seed(1)
    first = draws[7]
    torch.manual_seed(2)
    assert all(torch.equal(first[field], again[7][field]) for field in first)
    assert not torch.equal(first["noise"], draws[8]["noise"])
    assert not torch.equal(first["noise"], other[7]["noise"])


def test_every_picture_is_drawn_as_often_as_any_other() -> None:
    assert Counter(pictures_of(Draws(encoded(3), 30, seed=0))) == {1.0: 10, 2.0: 10, 3.0: 10}


def test_every_second_draw_is_a_prior_picture_with_its_own_weight() -> None:
    prior = encoded(5, first_caption=8)
    draws = Draws(encoded(2), 20, seed=0, prior=prior, prior_weight=0.25)
    captions = [int(draw["caption"]) for draw in every(draws)]
    assert Counter(captions[::2]) == {1: 5, 2: 5}
    assert Counter(captions[1::2]) == {8: 2, 9: 2, 10: 2, 11: 2, 12: 2}
    assert [float(draw["weight"]) for draw in every(draws)][:4] == [1.0, 0.25, 1.0, 0.25]


def test_captions_are_dropped_at_their_rate_and_mirror_images_drawn_half_the_time() -> None:
    draws = Draws(encoded(4, views=2), 2000, seed=0, caption_dropout=0.1)
    dropped = sum(int(draw["caption"]) == NO_CAPTION for draw in every(draws))
    mirrored = sum(picture < 0 for picture in pictures_of(draws))
    assert 150 < dropped < 250
    assert 900 < mirrored < 1100


@pytest.mark.parametrize(("rate", "expected"), [(0.0, {1, 2}), (1.0, {NO_CAPTION})])
def test_captions_are_never_or_always_dropped_at_the_ends(rate: float, expected: set[int]) -> None:
    assert {int(draw["caption"]) for draw in every(Draws(encoded(2), 500, seed=0, caption_dropout=rate))} == expected


def test_timesteps_are_uniform_and_noise_is_normal() -> None:
    draws = every(Draws(encoded(1), 2000, seed=0))
    fractions = torch.stack([draw["fraction"] for draw in draws])
    noise = torch.stack([draw["noise"] for draw in draws])
    counts = torch.histc(fractions, bins=4, min=0, max=1)
    assert counts.min() > 430
    torch.testing.assert_close(noise.std(), torch.tensor(1.0), atol=0.02, rtol=0)
