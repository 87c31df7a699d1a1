from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.api.rig import Rig, error_of, rig

pytestmark = pytest.mark.anyio

KEYS = "admin-secret:admin,user-secret:generate,other-secret:admin:acme"
ADMIN, USER, OTHER = ({"Authorization": f"Bearer {who}-secret"} for who in ("admin", "user", "other"))
GENERATE_ROUTES = [
    ("POST", "/generate"),
    ("GET", "/adapters"),
    ("GET", "/adapters/a"),
    ("GET", "/adapters/a/versions"),
    ("GET", "/overlap"),
]
ADMIN_ROUTES = [
    ("POST", "/adapters"),
    ("PATCH", "/adapters/a"),
    ("DELETE", "/adapters/a"),
    ("GET", "/adapters/a/content"),
    ("POST", "/admin/verify"),
    ("GET", "/admin/state"),
]
OPEN_ROUTES = ["/livez", "/readyz", "/openapi.json", "/docs"]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("keys"), api_keys=KEYS) as shared:
        yield shared


@pytest.mark.parametrize(("method", "path"), [*GENERATE_ROUTES, *ADMIN_ROUTES, ("GET", "/nowhere")])
async def test_without_a_known_key_nothing_is_told_and_no_body_is_read(method: str, path: str, server: Rig) -> None:
    for value in (None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic admin-secret", "admin-secret"):
        headers = {} if value is None else {"Authorization": value}
        response = await server.client.request(method, path, headers=headers, content=b"{")
        assert error_of(response, 401)["code"] == "unauthenticated"
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_what_changes_or_reveals_things_needs_the_role_admin(method: str, path: str, server: Rig) -> None:
    json = {"headers": {**USER, "content-type": "application/json"}, "content": b"{}"}
    assert error_of(await server.client.request(method, path, **json), 403)["code"] == "forbidden"  # type: ignore[arg-type]
    response = await server.client.request(method, path, headers=ADMIN)
    assert response.status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path"), GENERATE_ROUTES)
async def test_the_other_routes_need_any_role(method: str, path: str, server: Rig) -> None:
    for key in (USER, ADMIN):
        assert (await server.client.request(method, path, headers=key)).status_code not in (401, 403)


async def test_health_is_open_and_metrics_are_open_on_loopback_only(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", api_keys=KEYS) as server:
        for path in [*OPEN_ROUTES, "/metrics"]:
            assert (await server.client.get(path)).status_code == 200
    async with rig(tmp_path / "b", api_keys=KEYS, host="0.0.0.0") as server:  # noqa: S104
        error_of(await server.client.get("/metrics"), 401)
        assert (await server.client.get("/metrics", headers=USER)).status_code == 200


async def test_a_tenant_sees_its_own_adapters_only(tmp_path: Path) -> None:
    async with rig(tmp_path, api_keys=KEYS) as server:
        server.client.headers.update(ADMIN)
        await server.push("a")
        assert (await server.client.get("/adapters/a", headers=USER)).status_code == 200
        error_of(await server.client.get("/adapters/a", headers=OTHER), 404)
        assert (await server.client.get("/adapters", headers=OTHER)).json()["adapters"] == []
        body = {"prompt": "x", "adapter": "a"}
        error_of(await server.client.post("/generate", json=body, headers=OTHER), 404)


async def test_without_keys_everything_is_open(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert (await server.push("a")).status_code == 201
        assert (await server.client.post("/admin/verify")).status_code == 200
