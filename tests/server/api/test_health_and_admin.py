from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from server.core.errors import Draining, QueueFull, RequestRejected, StepFailed
from server.engine.messages import FailEvent, TextEvent
from tests.server.api.rig import error_of, rig

pytestmark = pytest.mark.anyio


async def test_a_server_that_drains_is_alive_but_not_ready(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert (await server.client.get("/readyz")).status_code == 200
        server.engine.is_draining = True
        assert error_of(await server.client.get("/readyz"), 503)["code"] == "draining"
        assert (await server.client.get("/livez")).status_code == 200


async def test_a_server_whose_engine_died_is_neither(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        server.engine.is_alive = False
        for path in ("/livez", "/readyz"):
            assert error_of(await server.client.get(path), 503)["code"] == "engine_died"


async def test_an_audit_that_finds_a_changed_base_answers_500_with_the_weights_that_differ(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        good = await server.client.post("/admin/verify")
        assert (good.status_code, good.json()["ok"], good.json()["bytes"]) == (200, True, 1024)
        server.engine.audit_ok = False
        bad = await server.client.post("/admin/verify")
        assert (bad.status_code, bad.json()["ok"], bad.json()["mismatched"]) == (500, False, ["layers.0.weight"])


async def test_the_state_tells_base_engine_and_tiers(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        state = (await server.client.get("/admin/state")).json()
        assert state["base"]["name"] == "tiny-base"
        assert state["engine"] == {"active": [], "staged": []}
        assert state["store"]["disk"]["num_adapters"] == 1


async def test_metrics_count_requests_by_route_template_and_outcome(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        await server.client.get("/adapters/a")
        await server.client.get("/adapters/b")
        await server.client.get("/no/such/route")
        text = (await server.client.get("/metrics")).text
        for route, outcome in (
            ("/adapters", "ok"),
            ("/adapters/{name}", "ok"),
            ("/adapters/{name}", "adapter_not_found"),
            ("unmatched", "route_not_found"),
        ):
            assert f'shira_requests_total{{outcome="{outcome}",route="{route}"}} 1.0' in text
        assert 'shira_uploads_total{outcome="created"} 1.0' in text
        assert 'shira_request_seconds_count{route="/adapters"} 1.0' in text


async def test_a_generation_is_answered_failed_by_our_fault_refused_or_ended_by_the_client(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        for error in (StepFailed("broke"), QueueFull(limit=1, retry_after_s=1), RequestRejected("too long"), None):
            server.engine.script = [error] if error else None
            await server.client.post("/generate", json={"prompt": "a"})
        text = (await server.client.get("/metrics")).text
        for verdict in ("ok", "failed", "refused", "client"):
            assert f'shira_generations_total{{verdict="{verdict}"}} 1.0' in text


async def test_a_generation_that_a_stop_cut_short_was_refused_and_not_ended_by_its_client(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        server.engine.script = [TextEvent(text="He"), FailEvent(error=Draining("the server is stopping"))]
        await server.generate(stream=True)
        assert server.count("generations", "refused") == 1
        assert server.count("generations", "client") == 0


async def test_a_scrape_that_hangs_takes_no_thread_from_others(tmp_path: Path) -> None:
    """Each later one waited for it in a thread of its own, until there was none left to look an adapter up."""
    async with rig(tmp_path) as server:
        await server.push("a")
        is_asked, disk_answers = threading.Event(), threading.Event()

        def ask_the_disk() -> None:
            is_asked.set()
            assert disk_answers.wait(10)

        server.services.metrics.at_scrape(ask_the_disk)
        scrapes = [asyncio.create_task(server.client.get("/metrics")) for _ in range(20)]
        try:
            async with asyncio.timeout(5):
                await asyncio.to_thread(is_asked.wait)
                assert (await server.client.get("/adapters/a")).status_code == 200
        finally:
            disk_answers.set()
        assert {scrape.status_code for scrape in await asyncio.gather(*scrapes)} == {200}


async def test_the_gauge_for_gateways_is_set_in_every_scrape_by_whoever_renders(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert b"shira_lora_requests_info{" in server.services.metrics.render()


async def test_unknown_routes_and_methods_have_the_one_error_shape(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert error_of(await server.client.get("/nowhere"), 404)["message"] == "Not Found: GET /nowhere"
        response = await server.client.put("/adapters")
        assert error_of(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"]
