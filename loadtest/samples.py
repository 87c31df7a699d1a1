"""What a server held at one moment of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """``at_s`` from the start of the run; of what is not finished, ``monotonic``. ``children_bytes``: of the processes
    that the server started, its embedded Redis. ``gauges``: by name, or ``name/tier``."""

    at_s: float
    server: str
    rss_bytes: int
    children_bytes: int
    gauges: Mapping[str, float]


def write_samples(samples: Iterable[Sample], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(one), separators=(",", ":")) + "\n" for one in samples))


def read_samples(path: Path) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in path.read_text().splitlines()]
