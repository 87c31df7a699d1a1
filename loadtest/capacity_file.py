"""The capacity that was found, for later runs to take a share of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.scenario import ScenarioRejected

KEY = "capacity_per_s"


def write_capacity(rate_per_s: float, details: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({KEY: rate_per_s, **details}, indent=1) + "\n")


def read_capacity(path: Path) -> float:
    """Raises ScenarioRejected."""
    try:
        return float(json.loads(path.read_text())[KEY])
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ScenarioRejected(f"{path}: expected what `python -m loadtest.capacity` writes, got {error}") from error
