"""What switches between staged adapters take, and of which kind they are."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from adapters_store.tools.inspect import inspect_file
from server.demo.process import DemoFailed, checked, say

NUM_ROUNDS = 9  # in each, every pair of adapters is switched there and back
SWITCH_KINDS = {
    "overwrite": "one index set: overwrite, one pass",
    "exchange": "two index sets: exchange, old words back and new ones in",
}


def index_sets(paths: Sequence[Path]) -> dict[str, str]:
    """The digest of every adapter's index set, as the file has it; a PEFT file does not tell."""
    found = {path.stem: inspect_file(path).get("index_set") for path in paths}
    return {name: digest for name, digest in found.items() if digest is not None}


def show_switches(client: httpx.Client, prompt: str, digests: Mapping[str, str]) -> None:
    """Goes back and forth between staged adapters, two that share an index set and two that do not, as far as
    ``digests`` (adapter name → index set) has such, and prints medians.

    Raises DemoFailed unless the server counted an overwrite for every switch of the first pair and an exchange for
    every one of the second."""
    pairs = _pairs(digests)
    if not pairs:
        return
    for name in sorted({name for pair in pairs.values() for name in pair}):
        _switch_ms(client, prompt, name)  # stages it
    times: dict[str, list[float]] = {kind: [] for kind in pairs}
    counted: Counter[str] = Counter()
    for _ in range(NUM_ROUNDS):
        for kind, (here, there) in pairs.items():
            _switch_ms(client, prompt, here)
            before = _switch_counts(client)
            times[kind] += [_switch_ms(client, prompt, name) for name in (there, here)]
            made = _switch_counts(client) - before
            if made != Counter({kind: 2}):
                raise DemoFailed(f"{here} ↔ {there}: expected two switches by {kind}, the server counted {dict(made)}")
            counted += made
    say(f"\nswitching between staged adapters, median of {2 * NUM_ROUNDS}:")
    for kind, pair in pairs.items():
        say(f"   {' ↔ '.join(pair):<20} {statistics.median(times[kind]):6.2f} ms   {SWITCH_KINDS[kind]}")
    shown = ", ".join(f'{{kind="{kind}"}} +{number}' for kind, number in counted.items())
    say(f"   counted by the server meanwhile: shira_switches_total {shown}")


def _pairs(digests: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """By the kind of switch that is due between them; both pairs begin with the same adapter."""
    here, there = next(((a, b) for a, b in combinations(digests, 2) if digests[a] == digests[b]), (None, None))
    here = here or next(iter(digests), None)
    other = next((name for name in digests if here and digests[name] != digests[here]), None)
    pairs = {"overwrite": (here, there), "exchange": (here, other)}
    return {kind: (a, b) for kind, (a, b) in pairs.items() if a and b}


def _switch_ms(client: httpx.Client, prompt: str, name: str) -> float:
    """Of the switch to this adapter."""
    body = {"prompt": prompt, "adapter": name, "parameters": {"max_new_tokens": 1}}
    taken: float = checked(client.post("/generate", json=body))["receipt"]["switch_ms"]
    return taken


def _switch_counts(client: httpx.Client) -> Counter[str]:
    """How many switches of each kind the server has made."""
    samples = (
        sample
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "shira_switches_total"
    )
    return Counter({sample.labels["kind"]: int(sample.value) for sample in samples})
