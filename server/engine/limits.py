"""What the engine allows itself, and how long that lets anyone wait."""

from __future__ import annotations

from dataclasses import dataclass

from server.engine.policy import Rules, Schedule

MIN_CHUNK_TOKENS = 64  # of prompt in every step, however many rows decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``max_batch``: sequences with KV at a time. ``max_step_tokens``: tokens of one step, at least one for each of
    them and some of a prompt. ``patience_steps``: how long a sequence may go without a token before it goes ahead of
    all others; ``turn_steps``: how long one that began or went on runs before it may be parked for such a one. A
    parked sequence costs its KV again, so a turn should be long beside a prompt. ``headroom_tokens``: free room left
    for each sequence to grow when another starts. For the others see ``policy.Rules``."""

    max_queue: int = 256
    max_batch: int = 32
    max_step_tokens: int = 256
    patience_steps: int = 512
    turn_steps: int = 128
    headroom_tokens: int = 16
    schedule: Schedule = "auto"
    quantum_steps: int = 16
    max_slowdown: float = 2.0

    @property
    def step_tokens(self) -> int:
        return max(self.max_step_tokens, self.max_batch + MIN_CHUNK_TOKENS)

    @property
    def rules(self) -> Rules:
        return Rules(schedule=self.schedule, quantum_steps=self.quantum_steps, max_slowdown=self.max_slowdown)

    def longest_wait_steps(self, *, num_live: int, max_sequence_tokens: int) -> int:
        """No request whose bytes are on the host goes more steps than this without a token, counted from when it was
        the first of its client that waits for its blend, or from its last token. ``num_live`` requests were live
        meanwhile, with prompt and answer of at most ``max_sequence_tokens``.

        After ``patience_steps`` it is owed a token. Those who are owed go in the order in which they became so, and
        until the first of them, F, has its token:

        - if F waits, nobody else starts; the running ones have all run a turn after ``turn_steps``, are parked as
          needed, and F starts (alone it always fits);
        - if F needs its blend in the weights, the blend that is in leaves after at most ``quantum_steps``, F's is next
          and stays; else F runs in every step, whatever is in;
        - F's prompt comes first after the rows that decode, at least ``step_tokens - max_batch`` tokens a step;
        - nobody takes F's memory: it is the last to be parked.

        Each of those before it, and it itself, takes these three times at most. Loading is not counted: see ``Loads``.
        """
        prefill_steps = -(-max_sequence_tokens // (self.step_tokens - self.max_batch))
        return self.patience_steps + 1 + num_live * (self.turn_steps + self.quantum_steps + prefill_steps)
