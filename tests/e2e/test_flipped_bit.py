"""A bit of the base flips in the memory of a live server: it is found, told, and the process leaves to be restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from loadtest.live_server import LiveServer, metric, wait_until
from server.app import ENGINE_DIED
from tests.e2e.tiny_server import tiny_server

WEIGHT = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with tiny_server(tmp_path, "--audit-interval-s", "0.2") as live:
        yield live


@pytest.mark.slow
def test_a_flipped_bit_is_found_unasked_and_ends_the_process_with_a_code_of_its_own(
    server: LiveServer, tmp_path: Path
) -> None:
    wait_until(lambda: metric(server.client, "shira_base_verified_timestamp_seconds") > 0)
    server.assert_base_intact()
    flip_a_bit(server.process.pid, first_bytes(tmp_path / "tiny"))
    assert server.process.wait(timeout=30) == ENGINE_DIED
    log = server.log_path.read_text()
    assert f"the base has changed: an audit found other bits in {WEIGHT}" in log
    found_s = time.time()
    server.start()
    server.assert_base_intact()
    told_s = metric(server.client, "shira_base_changed_timestamp_seconds")  # nobody scraped the process that found it
    assert told_s == pytest.approx(found_s, abs=30)
    server.stop()
    server.start()
    assert metric(server.client, "shira_base_changed_timestamp_seconds") == told_s


def first_bytes(model: Path) -> bytes:
    with safe_open(model / "model.safetensors", framework="pt") as checkpoint:
        pattern: bytes = checkpoint.get_tensor(WEIGHT).flatten()[:64].numpy().tobytes()
    return pattern


def flip_a_bit(pid: int, pattern: bytes) -> None:
    """The lowest bit behind ``pattern``, wherever the process may write it."""
    num_flipped = 0
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(side, 16) for side in span.split("-"))
            memory.seek(start)
            try:
                content = memory.read(end - start)
            except OSError:
                continue
            position = content.find(pattern)
            while position >= 0:
                memory.seek(start + position)
                memory.write(bytes([pattern[0] ^ 1]))
                num_flipped += 1
                position = content.find(pattern, position + 1)
    assert num_flipped > 0
