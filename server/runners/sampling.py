"""How one request's next token is drawn from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from server.core.requests import Sampling


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
        logits = (logits - logits.max()).double() / sampling.temperature
        tokens: Tensor | None = None
        if sampling.top_k or sampling.top_p < 1:
            k = min(sampling.top_k or logits.numel(), logits.numel())
            logits, tokens = logits.topk(k)  # descending
        probabilities = logits.softmax(dim=-1)
        if sampling.top_p < 1:
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)  # the first one always stays
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(drawn if tokens is None else tokens[drawn])
