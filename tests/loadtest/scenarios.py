"""Scenarios of the tests."""

from __future__ import annotations

from typing import Any

from loadtest.scenario import Scenario

LENGTHS = {"low": 4, "high": 8}
TEXT: dict[str, Any] = {"num_adapters": 4, "prompt_tokens": LENGTHS, "output_tokens": LENGTHS}
IMAGE: dict[str, Any] = {"num_adapters": 2, "num_steps": LENGTHS}


def scenario(**changes: Any) -> Scenario:
    """Texts alone, 100 per second for 100 seconds; ``changes`` replace whole tables."""
    fields: dict[str, Any] = {
        "name": "test",
        "duration_s": 100,
        "rate": {"mean_per_s": 100},
        "mix": {"text": 1},
        "text": TEXT,
        "servers": {"text": {"model": "m"}, "pictures": {"model": "p"}},
    }
    return Scenario.model_validate(fields | changes)
