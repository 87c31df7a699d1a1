"""What is asked of a server: pure data, drawn by a pure function of a spec and a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, assert_never

Popularity = Literal["zipf", "uniform", "round-robin", "bursts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A number of tokens whose logarithm is uniform between ``low`` and ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"lengths: expected 1 or more, the lower one first, got {self}")

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """One of ``concurrency`` (closed loop: so many clients, each asks again when it is answered) and ``rate_per_s``
    (open loop: arrivals of a Poisson process, whoever is still waiting) is given.

    ``num_adapters`` 0 is traffic for the base alone; otherwise ``base_share`` of the requests go to the base.
    ``bursts``: one adapter is asked ``burst_length`` times in a row, in the open loop all at one moment.
    ``key_shares``: how the requests divide over API keys."""

    num_requests: int
    concurrency: int | None = None
    rate_per_s: float | None = None
    num_adapters: int = 0
    popularity: Popularity = "zipf"
    zipf_exponent: float = 1.0
    burst_length: int = 8
    base_share: float = 0.0
    prompt_tokens: Lengths = Lengths(low=64, high=64)
    new_tokens: Lengths = Lengths(low=64, high=64)
    key_shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if (self.concurrency is None) == (self.rate_per_s is None):
            raise ValueError("workload: expected either a concurrency or a rate, got both or none")
        counts = (self.num_requests, self.burst_length, self.concurrency, self.rate_per_s)
        if any(count is not None and count <= 0 for count in counts):
            raise ValueError(f"workload: expected requests, burst length, concurrency and rate above 0, got {counts}")
        if not self.key_shares or min(self.key_shares) <= 0:
            raise ValueError(f"key shares: expected one or more, all above 0, got {self.key_shares}")
        if not 0 <= self.base_share <= 1:
            raise ValueError(f"base share: expected 0 to 1, got {self.base_share}")

    def __str__(self) -> str:
        loop = f"c={self.concurrency}" if self.concurrency is not None else f"{self.rate_per_s:g} req/s"
        return f"{self._traffic()}, {loop}"

    def _traffic(self) -> str:
        if self.num_adapters == 0:
            return "base only"
        if self.num_adapters == 1:
            return "1 adapter"
        shape = f"zipf {self.zipf_exponent:g}" if self.popularity == "zipf" else self.popularity
        base = f", {self.base_share:.0%} base" if self.base_share else ""
        return f"{self.num_adapters} adapters {shape}{base}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. ``at_s`` from the start in the open loop; None: as soon as a client is free. ``adapter`` None: base.

    All ``num_new_tokens`` are to be generated, whatever the model would rather do."""

    at_s: float | None
    key: int
    adapter: str | None
    prompt: str
    num_prompt_tokens: int
    num_new_tokens: int


def adapter_name(number: int) -> str:
    return f"bench-{number}"


def zipf_weights(count: int, exponent: float) -> list[float]:
    """How often the first, the second, … is asked for, most popular first; not normalised."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


def draw(spec: WorkloadSpec, *, seed: int, words: Sequence[str]) -> list[Arrival]:
    """The same spec, seed and words give the same requests. ``words`` are texts of one token each, in any order."""
    adapters = _adapters(spec, _stream(seed, "adapters"))
    times = _times(spec, _stream(seed, "times"))
    keys = _stream(seed, "keys").choices(range(len(spec.key_shares)), spec.key_shares, k=spec.num_requests)
    lengths, prompts = _stream(seed, "lengths"), _stream(seed, "prompts")
    arrivals = []
    for at_s, key, adapter in zip(times, keys, adapters, strict=True):
        num_prompt_tokens = draw_length(spec.prompt_tokens, lengths)
        arrivals.append(
            Arrival(
                at_s=at_s,
                key=key,
                adapter=adapter,
                prompt="".join(prompts.choices(words, k=num_prompt_tokens)),
                num_prompt_tokens=num_prompt_tokens,
                num_new_tokens=draw_length(spec.new_tokens, lengths),
            )
        )
    return arrivals


def _stream(seed: int, what: str) -> random.Random:
    """A stream for each thing drawn, so that a change of one leaves the others as they were."""
    return random.Random(f"{seed} {what}")  # noqa: S311


def _adapters(spec: WorkloadSpec, rng: random.Random) -> list[str | None]:
    numbers = _adapter_numbers(spec, rng) if spec.num_adapters else [None] * spec.num_requests
    return [None if number is None or rng.random() < spec.base_share else adapter_name(number) for number in numbers]


def _adapter_numbers(spec: WorkloadSpec, rng: random.Random) -> Sequence[int | None]:
    every, count = range(spec.num_adapters), spec.num_requests
    match spec.popularity:
        case "zipf":
            return rng.choices(every, zipf_weights(spec.num_adapters, spec.zipf_exponent), k=count)
        case "uniform":
            return rng.choices(every, k=count)
        case "round-robin":
            return [number % spec.num_adapters for number in range(count)]
        case "bursts":
            drawn = rng.choices(every, k=-(-count // spec.burst_length))
            return [drawn[number // spec.burst_length] for number in range(count)]
        case _:
            assert_never(spec.popularity)


def _times(spec: WorkloadSpec, rng: random.Random) -> list[float] | list[None]:
    """Of bursts there are fewer, so that as many requests come per second."""
    if spec.rate_per_s is None:
        return [None] * spec.num_requests
    together = spec.burst_length if spec.popularity == "bursts" and spec.num_adapters else 1
    num_moments = -(-spec.num_requests // together)
    moments = list(accumulate(rng.expovariate(spec.rate_per_s / together) for _ in range(num_moments)))
    return [moments[number // together] for number in range(spec.num_requests)]


def draw_length(lengths: Lengths, rng: random.Random) -> int:
    drawn: float = lengths.low * (lengths.high / lengths.low) ** rng.random()
    return min(round(drawn), lengths.high)
