from __future__ import annotations

import pytest
import torch

from server.core.requests import Sampling
from server.runners.sampling import Sampler

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0, -1.0])


def draws(sampling: Sampling, num: int = 300, prompt: tuple[int, ...] = (0,)) -> list[int]:
    sampler = Sampler(sampling, prompt, CPU)
    return [sampler.draw(LOGITS) for _ in range(num)]


def test_without_temperature_the_largest_logit_wins() -> None:
    assert set(draws(Sampling())) == {1}


def test_a_seed_gives_the_same_draws_again_and_another_seed_others() -> None:
    assert draws(Sampling(temperature=1.0, seed=3)) == draws(Sampling(temperature=1.0, seed=3))
    assert draws(Sampling(temperature=1.0, seed=3)) != draws(Sampling(temperature=1.0, seed=4))
    assert draws(Sampling(temperature=1.0)) != draws(Sampling(temperature=1.0))


def test_top_k_leaves_k_tokens() -> None:
    assert set(draws(Sampling(temperature=5.0, top_k=2, seed=0))) == {1, 2}


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    """The probabilities are about 0.63, 0.23, 0.09, 0.03 and 0.01."""
    assert set(draws(Sampling(temperature=1.0, top_p=0.6, seed=0))) == {1}
    assert set(draws(Sampling(temperature=1.0, top_p=0.7, seed=0))) == {1, 2}
    assert set(draws(Sampling(temperature=1.0, top_p=1e-9, seed=0))) == {1}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1e-40),
        Sampling(temperature=5e-324, top_k=3),
        Sampling(temperature=1.0, top_p=5e-324),
        Sampling(temperature=1e-300, top_p=1e-300, repetition_penalty=0.01),
    ],
)
def test_the_smallest_temperature_and_top_p_take_the_largest_logit(sampling: Sampling) -> None:
    """They left float32's range, and the error ended every request of the step."""
    assert Sampler(sampling, (1,), CPU).draw(LOGITS * 10) == 1


def test_draws_follow_the_probabilities() -> None:
    drawn = torch.tensor(draws(Sampling(temperature=2.0, seed=1), num=4000))
    frequencies = torch.bincount(drawn, minlength=5) / 4000
    assert torch.allclose(frequencies, (LOGITS / 2.0).softmax(0), atol=0.03)


def test_the_repetition_penalty_makes_seen_tokens_less_likely() -> None:
    assert draws(Sampling(repetition_penalty=2.0), num=3, prompt=(1,)) == [2, 1, 1]
    negative = Sampler(Sampling(repetition_penalty=3.0), (0,), CPU)
    assert negative.draw(torch.tensor([-1.0, -2.0])) == 1


def test_logits_are_left_as_they_were() -> None:
    logits = LOGITS.clone()
    Sampler(Sampling(temperature=1.0, top_k=2, top_p=0.5, repetition_penalty=2.0), (1, 2), CPU).draw(logits)
    assert torch.equal(logits, LOGITS)
