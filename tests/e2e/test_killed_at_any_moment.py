"""SIGKILL during uploads and switches: what was acknowledged is there, nothing half-written is listed."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from loadtest.live_server import LiveServer
from tests.e2e.conftest import RealAdapters

NUM_KILLS = 4


@dataclass(slots=True)
class Ledger:
    """What a client tried to upload, and what it was told is stored."""

    attempted: set[str] = field(default_factory=set)
    acknowledged: dict[str, str] = field(default_factory=dict)


@pytest.mark.slow
def test_a_killed_server_comes_back_with_every_acknowledged_adapter_and_nothing_else(
    tmp_path: Path, adapters: RealAdapters
) -> None:
    dice = random.Random(1)
    versions = {name: adapter.version for name, adapter in adapters.by_name.items()}
    ledger = Ledger()
    with LiveServer(tmp_path / "data") as live:
        for _ in range(NUM_KILLS):
            stop = threading.Event()
            threads = [
                threading.Thread(target=upload_until, args=(live, adapters, ledger, stop)),
                threading.Thread(target=switch_until, args=(live, ledger, stop)),
            ]
            for thread in threads:
                thread.start()
            stop.wait(dice.uniform(0.2, 1.5))
            live.kill()
            stop.set()
            for thread in threads:
                thread.join()
            live.start()
            listed = listed_versions(live)
            assert ledger.acknowledged.items() <= listed.items()
            assert set(listed) <= ledger.attempted
            assert all(listed[name] == versions[name.split(".")[0]] for name in listed)
        assert ledger.acknowledged
        for name in dice.sample(sorted(listed), min(3, len(listed))):
            assert live.generate(name)["receipt"]["adapters"][0]["version"] == listed[name]
        live.assert_base_intact()


def upload_until(live: LiveServer, adapters: RealAdapters, ledger: Ledger, stop: threading.Event) -> None:
    while not stop.is_set():
        number = len(ledger.attempted)
        source = sorted(adapters.paths)[number % len(adapters.paths)]
        name = f"{source}.{number}"
        ledger.attempted.add(name)
        try:
            ledger.acknowledged[name] = live.push(name, adapters.paths[source])["version"]
        except httpx.TransportError:
            return


def switch_until(live: LiveServer, ledger: Ledger, stop: threading.Event) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        chosen = sorted(ledger.acknowledged)[-2:][number % 2 : number % 2 + 1]
        try:
            live.generate(chosen, num_tokens=1)
        except httpx.TransportError:
            return


def listed_versions(live: LiveServer) -> dict[str, str]:
    listed: dict[str, str] = {}
    after: str | None = None
    while True:
        page = live.client.get("/adapters", params={"after": after} if after else {}).raise_for_status().json()
        listed |= {adapter["name"]: adapter["version"] for adapter in page["adapters"]}
        after = page["next"]
        if after is None:
            return listed
