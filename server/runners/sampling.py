"""How one request's next token is drawn from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from server.core.requests import Sampling

FEW = 512  # tokens that mostly hold more than any usual top-p


class Sampler:
    """One request's sampling state: its random generator, and which tokens it has seen."""

    def __init__(self, sampling: Sampling, prompt_tokens: tuple[int, ...], device: torch.device) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator(device=device)
            self._generator.seed() if sampling.seed is None else self._generator.manual_seed(sampling.seed)
        self._seen = torch.tensor(sorted(set(prompt_tokens)), device=device)

    @property
    def is_plain_greedy(self) -> bool:
        """The argmax of the raw logits is the answer."""
        return self._generator is None and self._sampling.repetition_penalty == 1.0

    def draw(self, logits: Tensor) -> int:
        """``logits`` (vocabulary,), any float dtype; not changed."""
        logits = logits.float()
        if self._sampling.repetition_penalty != 1.0:
            logits = self._penalised(logits)
        token = int(logits.argmax()) if self._generator is None else self._sampled(logits)
        if self._sampling.repetition_penalty != 1.0:
            self._seen = torch.cat([self._seen, self._seen.new_tensor([token])])
        return token

    def _penalised(self, logits: Tensor) -> Tensor:
        """Keskar et al. 2019, section 4.1, on prompt and answer, each token once."""
        seen = logits[self._seen]
        penalty = self._sampling.repetition_penalty
        return logits.index_put((self._seen,), torch.where(seen > 0, seen / penalty, seen * penalty))

    def _sampled(self, logits: Tensor) -> int:
        """Temperature, then top-k, then top-p (Holtzman et al. 2020) over what top-k left.

        In float64 and from the largest logit down, so that no temperature or top-p, however small, leaves its range:
        an error here would end the other requests of the step as well."""
        sampling = self._sampling
        weights = ((logits - logits.max()).double() / sampling.temperature).exp()  # (vocabulary,), the largest is 1
        tokens: Tensor | None = None
        if sampling.top_k:
            weights, tokens = weights.topk(min(sampling.top_k, weights.numel()))  # descending
        if sampling.top_p < 1:
            weights, tokens = _nucleus(weights, tokens, sampling.top_p)
        cumulative = weights.cumsum(dim=-1)
        point = torch.rand(1, generator=self._generator, dtype=torch.float64, device=weights.device) * cumulative[-1]
        place = min(int(torch.searchsorted(cumulative, point, right=True)), cumulative.numel() - 1)
        return place if tokens is None else int(tokens[place])


def likeliest(logits: Tensor, token: int, num_top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probabilities under softmax of ``logits`` (vocabulary,): of ``token``, and of the ``num_top``
    likeliest tokens, likeliest first."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    top = log_probabilities.topk(min(num_top, logits.numel()))
    return float(log_probabilities[token]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def _nucleus(weights: Tensor, tokens: Tensor | None, top_p: float) -> tuple[Tensor, Tensor | None]:
    """The fewest likeliest ones that together have ``top_p`` of the weight; at least one. ``weights`` are in
    descending order where ``tokens`` names them, else in the vocabulary's."""
    total = weights.sum()
    if tokens is None:
        weights, tokens = _descending(weights, float(total) * top_p)
    before = weights.cumsum(dim=-1) - weights
    num_kept = max(1, int((before < top_p * total).sum()))
    return weights[:num_kept], tokens[:num_kept]


def _descending(weights: Tensor, enough: float) -> tuple[Tensor, Tensor]:
    """The largest weights with their places, in descending order: few where few add up to ``enough``, for sorting a
    whole vocabulary takes longer than all the rest."""
    few = weights.topk(min(FEW, weights.numel()))
    return (few.values, few.indices) if float(few.values.sum()) >= enough else weights.sort(descending=True)
