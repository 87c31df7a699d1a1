"""Which deadlines cannot be met any more."""

from __future__ import annotations

from collections.abc import Collection

from server.core.requests import GenerationRequest
from server.engine.rates import Rates


def needed_s_if_late(
    request: GenerationRequest, now: float, *, rates: Rates, before: Collection[float], step_tokens: int
) -> float | None:
    """If a request that has not begun is late for certain: what it still takes. None if it may be in time.

    Late is only what would be so with others of the token costs ``before`` alone before it, with all of every step for
    its prompt, none of which is reused, steps as short as they come where nothing heavier runs, and an answer of one
    token (of all its tokens if nothing can end it earlier)."""
    if request.deadline_s is None or now >= request.deadline_s:
        return None
    num_steps = -(-request.num_prompt_tokens // step_tokens)
    if not request.can_end_early:
        num_steps += request.max_new_tokens - 1
    needed_s = rates.least_s(before, num_steps, request.token_cost)
    return needed_s if now + needed_s > request.deadline_s else None
