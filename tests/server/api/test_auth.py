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


@pytest.mark.parametrize("secret", ["schlüssel", "voilà", "clé", "\udcff\udce9"])
async def test_a_secret_opens_by_its_bytes_whatever_they_spell(secret: str, tmp_path: Path) -> None:
    """A header's text is not that of its bytes in UTF-8: such a key was taken at start and opened nothing."""
    async with rig(tmp_path, api_keys=f"{secret}:admin") as server:
        value = f"Bearer {secret}".encode(errors="surrogateescape")
        assert (await server.client.get("/admin/state", headers={b"Authorization": value})).status_code == 200


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


HOSTS_OF_OURS = ["localhost", "localhost:8000", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000", "[::1]"]
HOSTS_OF_OTHERS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "[",
    "192.0.2.1",
]
OF_THIS_SERVER: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost:8000"},
]
OF_OTHER_PAGES = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "null"},
]


@pytest.fixture(scope="module")
async def open_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("open")) as shared:
        yield shared


@pytest.mark.parametrize("path", ["/admin/state", "/adapters", "/metrics", "/docs", "/nowhere"])
async def test_without_keys_a_name_that_is_not_this_machines_is_told_nothing(path: str, open_server: Rig) -> None:
    """A page whose own name was pointed at 127.0.0.1 could read and do everything."""
    for host in HOSTS_OF_OTHERS:
        message = error_of(await open_server.client.get(path, headers={"Host": host}), 403)["message"]
        assert f"Host: expected localhost or a loopback address, got {host}" in message
    for host in HOSTS_OF_OURS:
        assert (await open_server.client.get(path, headers={"Host": host})).status_code in (200, 404)


@pytest.mark.parametrize("headers", OF_OTHER_PAGES)
async def test_without_keys_no_page_of_another_origin_changes_anything(
    headers: dict[str, str], open_server: Rig
) -> None:
    """A form is sent from any page without asking first: an upload from a stranger's page was taken."""
    headers = {"Host": "localhost:8000", **headers}
    for method, path in (
        ("POST", "/adapters"),
        ("POST", "/generate"),
        ("PATCH", "/adapters/a"),
        ("POST", "/admin/verify"),
    ):
        response = await open_server.client.request(method, path, headers=headers, content=b"{")
        assert "expected" in error_of(response, 403)["message"]
    assert (await open_server.client.get("/adapters", headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", OF_THIS_SERVER)
async def test_without_keys_the_pages_of_this_server_and_what_is_no_browser_do_as_they_like(
    headers: dict[str, str], open_server: Rig
) -> None:
    headers = {"Host": "localhost:8000", **headers}
    assert (await open_server.client.post("/admin/verify", headers=headers)).status_code == 200


async def test_other_names_are_taken_beyond_loopback_and_other_pages_where_there_are_keys(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", host="0.0.0.0", allow_insecure_bind=True) as server:  # noqa: S104
        assert (await server.client.post("/admin/verify", headers={"Host": "gpu-1.lan"})).status_code == 200
        for headers in OF_OTHER_PAGES:
            error_of(await server.client.post("/admin/verify", headers={"Host": "localhost:8000", **headers}), 403)
    async with rig(tmp_path / "b", api_keys=KEYS) as server:
        headers = {**ADMIN, "Host": "shira.example", "Origin": "https://ours.example", "Sec-Fetch-Site": "cross-site"}
        assert (await server.client.post("/admin/verify", headers=headers)).status_code == 200
