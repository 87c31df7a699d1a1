from __future__ import annotations

from pathlib import Path

import pytest

from server.core.errors import QueueFull, RequestRejected, StepFailed
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


async def test_unknown_routes_and_methods_have_the_one_error_shape(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert error_of(await server.client.get("/nowhere"), 404)["message"] == "Not Found: GET /nowhere"
        response = await server.client.put("/adapters")
        assert error_of(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"]
