"""Two servers, two disks, one Redis: what one was given, the other serves."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.live_server import LiveServer, metric, wait_until
from loadtest.shared_redis import SharedRedis
from tests.e2e.conftest import RealAdapters


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[SharedRedis]:
    with SharedRedis(tmp_path / "redis") as running:
        yield running


@pytest.mark.slow
def test_an_adapter_uploaded_to_one_replica_is_served_by_the_other_byte_for_byte(
    tmp_path: Path, adapters: RealAdapters, redis: SharedRedis
) -> None:
    with LiveServer(tmp_path / "one", redis=redis.url) as one, LiveServer(tmp_path / "two", redis=redis.url) as two:
        uploaded = one.push("a", adapters.paths["a"])
        answer = one.generate("a")
        wait_until(lambda: two.client.get("/adapters/a").status_code == 200)
        one.kill()
        shutil.rmtree(one.data_dir)
        assert two.generate("a")["text"] == answer["text"]
        assert two.generate("a")["receipt"]["adapters"] == answer["receipt"]["adapters"]
        assert two.client.get("/adapters/a").json()["version"] == uploaded["version"]
        downloaded = two.client.get("/adapters/a/content").content
        assert downloaded == adapters.paths["a"].read_bytes()
        two.assert_base_intact()


@pytest.mark.slow
def test_a_move_and_a_delete_reach_the_other_replica(
    tmp_path: Path, adapters: RealAdapters, redis: SharedRedis
) -> None:
    with LiveServer(tmp_path / "one", redis=redis.url) as one, LiveServer(tmp_path / "two", redis=redis.url) as two:
        first = one.push("x", adapters.paths["a"])["version"]
        second = one.push("x", adapters.paths["b"])["version"]
        wait_until(lambda: two.client.get("/adapters/x").json().get("version") == second)
        two.client.patch("/adapters/x", json={"version": first}).raise_for_status()
        wait_until(lambda: one.client.get("/adapters/x").json()["version"] == first)
        assert one.generate("x")["receipt"]["adapters"][0]["version"] == first
        two.client.delete("/adapters/x").raise_for_status()
        wait_until(lambda: one.client.get("/adapters/x").status_code == 404)


@pytest.mark.slow
def test_redis_stopped_frozen_and_restarted_under_load_fails_no_request(
    tmp_path: Path, adapters: RealAdapters, redis: SharedRedis
) -> None:
    with LiveServer(tmp_path / "one", redis=redis.url) as one:
        for name in ("a", "b"):
            one.push(name, adapters.paths[name])
        stop, failures, answered = threading.Event(), list[str](), list[str]()

        def load(name: str) -> None:
            while not stop.is_set():
                response = one.client.post(
                    "/generate", json={"prompt": "Hello", "adapter": name, "parameters": {"max_new_tokens": 2}}
                )
                (answered if response.status_code == 200 else failures).append(response.text)

        threads = [threading.Thread(target=load, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        try:
            redis.freeze()
            wait_until(lambda: metric(one.client, "shira_redis_up") == 0)
            one.push("while-frozen", adapters.paths["c"])
            redis.thaw()
            wait_until(lambda: metric(one.client, "shira_redis_up") == 1)
            redis.stop()
            wait_until(lambda: metric(one.client, "shira_redis_up") == 0)
            one.push("while-gone", adapters.paths["twin"])
            redis.start()
            wait_until(lambda: metric(one.client, "shira_redis_up") == 1)
            redis.flush()
            seen = len(answered)
            wait_until(lambda: len(answered) > seen + 4)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        one.assert_base_intact()
        with LiveServer(tmp_path / "two", redis=redis.url) as two:  # the emptied Redis was filled again
            wait_until(lambda: two.client.get("/adapters/while-gone").status_code == 200)
            assert two.generate("while-frozen")["text"] == one.generate("while-frozen")["text"]


@pytest.mark.slow
def test_a_delete_at_one_replica_takes_the_adapter_out_of_the_weights_of_the_other(
    tmp_path: Path, adapters: RealAdapters, redis: SharedRedis
) -> None:
    with LiveServer(tmp_path / "one", redis=redis.url) as one, LiveServer(tmp_path / "two", redis=redis.url) as two:
        version = one.push("x", adapters.paths["a"])["version"]
        wait_until(lambda: two.client.get("/adapters/x").status_code == 200)
        two.generate("x")
        assert version in two.client.get("/admin/state").text
        one.client.delete("/adapters/x").raise_for_status()
        wait_until(lambda: version not in two.client.get("/admin/state").text)
