from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters_store.adapter import Version
from tests.server.api.rig import Rig, error_of, rig

pytestmark = pytest.mark.anyio


def num_stored(server: Rig) -> int:
    count: int = server.store.describe()["disk"]["num_adapters"]
    return count


async def test_a_delete_frees_every_version_in_the_engine_and_on_disk(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        versions = {(await server.push("pirate", values=values)).json()["version"] for values in (1, 2)}
        deleted = (await server.client.delete("/adapters/pirate")).json()
        assert set(deleted["versions"]) == versions == set(server.engine.forgotten)
        assert num_stored(server) == 0
        error_of(await server.client.get("/adapters/pirate"), 404)
        error_of(await server.client.delete("/adapters/pirate"), 404)


async def test_bytes_that_another_name_refers_to_stay(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a", values=1)
        await server.push("b", values=1)
        assert (await server.client.delete("/adapters/a")).json()["versions"] == []
        assert (await server.generate(adapter="b")).status_code == 200
        assert num_stored(server) == 1


async def test_one_older_version_can_go_but_not_the_current_one(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        old, new = [(await server.push("a", values=values)).json()["version"] for values in (1, 2)]
        current = await server.client.delete("/adapters/a", params={"version": new})
        assert error_of(current, 409)["code"] == "conflict"
        assert (await server.client.delete("/adapters/a", params={"version": old})).json()["versions"] == [old]
        assert num_stored(server) == 1
        error_of(await server.client.delete("/adapters/a", params={"version": old}), 404)


async def test_a_delete_waits_for_the_requests_that_use_the_version(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        go_on = asyncio.Event()
        server.engine.script = [go_on]
        running = asyncio.create_task(server.generate(adapter="a"))
        await server.engine.waits.get()
        deleting = asyncio.create_task(server.client.delete("/adapters/a"))
        done, _ = await asyncio.wait([deleting], timeout=0.1)
        assert not done
        assert len(server.engine.forgotten) == 1  # before the wait: nothing new starts from what is staged
        error_of(await server.generate(adapter="a"), 404)
        go_on.set()
        assert (await running).json()["receipt"]["adapters"][0]["name"] == "a"
        assert (await deleting).status_code == 200
        assert num_stored(server) == 0


async def test_an_adapter_deleted_between_its_look_up_and_its_hold_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        hold = server.store.hold

        def hold_too_late(version: Version) -> None:
            for forgotten in server.store.delete("default", "a"):
                server.store.destroy(forgotten, timeout_s=1)
            hold(version)

        monkeypatch.setattr(server.store, "hold", hold_too_late)
        error_of(await server.generate(adapter="a"), 404)
        assert server.engine.requests == []
        assert server.store.describe()["claims"] == {}


async def test_a_delete_that_waited_too_long_says_so_and_still_frees_the_memory_in_the_end(tmp_path: Path) -> None:
    async with rig(tmp_path, delete_wait_s=0.05) as server:
        await server.push("a")
        go_on = asyncio.Event()
        server.engine.script = [go_on]
        running = asyncio.create_task(server.generate(adapter="a"))
        await server.engine.waits.get()
        error = error_of(await server.client.delete("/adapters/a"), 409)
        assert (error["code"], "freed when those requests end" in error["message"]) == ("adapter_in_use", True)
        assert num_stored(server) == 1
        go_on.set()
        assert (await running).status_code == 200
        await server.services.background.idle()
        assert num_stored(server) == 0


async def test_an_adapter_uploaded_again_while_its_delete_waits_survives(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        go_on = asyncio.Event()
        server.engine.script = [go_on]
        running = asyncio.create_task(server.generate(adapter="a"))
        await server.engine.waits.get()
        deleting = asyncio.create_task(server.client.delete("/adapters/a"))
        await asyncio.wait([deleting], timeout=0.1)
        await server.push("a")
        go_on.set()
        assert (await running).status_code == 200
        assert (await deleting).json()["versions"] == []
        server.engine.script = None
        assert (await server.generate(adapter="a")).status_code == 200
