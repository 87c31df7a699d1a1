from __future__ import annotations

import pytest
import torch

from server.core.requests import Sampling
from server.runners.sampling import FEW, Sampler, likeliest

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


@pytest.mark.parametrize("top_p", [0.05, 0.9])
def test_top_p_keeps_the_same_tokens_whether_few_or_many_reach_it(top_p: float) -> None:
    logits = torch.randn(8 * FEW, generator=torch.Generator().manual_seed(0)) * 0.5
    probabilities, order = logits.double().softmax(0).sort(descending=True)
    kept = set(order[probabilities.cumsum(0) - probabilities < top_p].tolist())
    assert (len(kept) > FEW) == (top_p > 0.5), "the case is not the one it should be"
    sampler = Sampler(Sampling(temperature=1.0, top_p=top_p, seed=0), (0,), CPU)
    assert {sampler.draw(logits) for _ in range(500)} <= kept


def test_log_probabilities_are_those_of_the_softmax_likeliest_first() -> None:
    drawn, top = likeliest(LOGITS, token=3, num_top=2)
    expected = LOGITS.softmax(0).log()
    assert drawn == pytest.approx(float(expected[3]))
    assert [token for token, _ in top] == [1, 2]
    assert [logprob for _, logprob in top] == pytest.approx([float(expected[1]), float(expected[2])])
    assert likeliest(LOGITS, token=0, num_top=0)[1] == []
    assert len(likeliest(LOGITS, token=0, num_top=20)[1]) == len(LOGITS)


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
