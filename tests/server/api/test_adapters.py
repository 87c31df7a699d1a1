from __future__ import annotations

from pathlib import Path

import pytest

from adapters_store.format import read_adapter, write_adapter
from tests.adapters_store.small_adapters import same_adapter, small_adapter
from tests.server.api.rig import BASE, error_of, rig
from tests.server.fakes import FINGERPRINT

pytestmark = pytest.mark.anyio


async def test_the_same_bytes_again_are_the_same_version_and_a_new_one_moves_the_alias(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        first = await server.push("pirate", values=1)
        again = await server.push("pirate", values=1)
        other = await server.push("pirate", values=2)
        assert [one.status_code for one in (first, again, other)] == [201, 200, 201]
        assert first.json()["version"] == again.json()["version"] == small_adapter(values=1, base=FINGERPRINT).version
        shown = await server.client.get("/adapters/pirate")
        assert shown.json()["version"] == other.json()["version"]
        assert shown.headers["etag"] == other.headers["etag"]
        versions = (await server.client.get("/adapters/pirate/versions")).json()["versions"]
        assert [(one["version"], one["current"]) for one in versions] == [
            (first.json()["version"], False),
            (other.json()["version"], True),
        ]
        assert server.count("uploads", "created") == 2
        assert server.count("uploads", "unchanged") == 1


async def test_description_and_tags_stay_until_an_upload_or_a_patch_names_new_ones(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("pirate", description="talks", tags="fun, sea ,")
        kept = (await server.push("pirate", values=1)).json()
        assert (kept["description"], kept["tags"]) == ("talks", ["fun", "sea"])
        changed = await server.client.patch("/adapters/pirate", json={"tags": [], "pinned": True})
        assert (changed.json()["description"], changed.json()["tags"], changed.json()["pinned"]) == ("talks", [], True)


async def test_a_tag_given_twice_is_kept_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        assert (await server.push("a", tags="sea,fun,sea")).json()["tags"] == ["sea", "fun"]
        changed = await server.client.patch("/adapters/a", json={"tags": ["x", "y", "x"]})
        assert changed.json()["tags"] == ["x", "y"]


@pytest.mark.parametrize("body", [{}, {"pinned": None}])
async def test_a_patch_that_changes_nothing_is_refused(body: dict[str, None], tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        etag = (await server.push("a")).headers["etag"]
        error = error_of(await server.client.patch("/adapters/a", json=body), 400)
        assert "nothing to change: give at least one of version, pinned, description, tags" in error["message"]
        assert (await server.client.get("/adapters/a")).headers["etag"] == etag


async def test_adapters_are_listed_by_name_in_pages_that_miss_none(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        for name in ("c", "a", "b", "e", "d"):
            await server.push(name)
        seen, after = [], ""
        while True:
            page = (await server.client.get("/adapters", params={"limit": 2, "after": after})).json()
            seen += [one["name"] for one in page["adapters"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert seen == ["a", "b", "c", "d", "e"]
        for limit in ("0", "1001", "x"):
            assert error_of(await server.client.get("/adapters", params={"limit": limit}), 400)["param"] == "limit"


async def test_a_rollback_points_the_name_at_an_earlier_version(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        first = (await server.push("pirate", values=1)).json()["version"]
        await server.push("pirate", values=2)
        rolled = await server.client.patch("/adapters/pirate", json={"version": first})
        assert rolled.json()["version"] == first
        assert (await server.generate(adapter="pirate")).json()["receipt"]["adapters"][0]["version"] == first
        unknown = "sha256:" + "00" * 32
        error_of(await server.client.patch("/adapters/pirate", json={"version": unknown}), 404)


async def test_if_match_lets_only_the_first_of_two_changes_through(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        etag = (await server.push("pirate")).headers["etag"]
        headers = {"If-Match": etag}
        assert (
            await server.client.patch("/adapters/pirate", json={"pinned": True}, headers=headers)
        ).status_code == 200
        late = await server.client.patch("/adapters/pirate", json={"pinned": False}, headers=headers)
        assert error_of(late, 409)["code"] == "conflict"
        assert error_of(await server.client.delete("/adapters/pirate", headers=headers), 409)["code"] == "conflict"
        assert (await server.client.get("/adapters/pirate")).json()["pinned"] is True
        any_version = {"If-Match": "*"}
        assert (await server.client.delete("/adapters/pirate", headers=any_version)).status_code == 200


@pytest.mark.parametrize("header", ["", "3-ab", 'W/"3-ab"', '"a", "b"', '"'])
async def test_an_if_match_of_another_form_is_refused(header: str, tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("pirate")
        response = await server.client.patch("/adapters/pirate", json={}, headers={"If-Match": header})
        assert error_of(response, 400)["param"] == "If-Match"


async def test_a_download_is_the_adapter_as_it_was_uploaded_and_leaves_no_file(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        first = (await server.push("pirate", values=1)).json()["version"]
        await server.push("pirate", values=2)
        downloaded = await server.client.get("/adapters/pirate/content", params={"version": first})
        assert downloaded.headers["content-disposition"] == 'attachment; filename="pirate.safetensors"'
        assert downloaded.headers["etag"] == f'"{first}"'
        path = tmp_path / "back.safetensors"
        path.write_bytes(downloaded.content)
        assert same_adapter(read_adapter(path, base=BASE).adapter, small_adapter(values=1, base=FINGERPRINT))
        assert list((tmp_path / "data" / "scratch").iterdir()) == []


async def test_a_download_keeps_the_card_of_the_upload(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        path = tmp_path / "carded.safetensors"
        write_adapter(small_adapter(base=FINGERPRINT), path, card={"mask": "wm", "seed": 7})
        uploaded = path.read_bytes()
        await server.client.post("/adapters", data={"name": "carded"}, files={"file": uploaded})
        assert (await server.client.get("/adapters/carded/content")).content == uploaded


async def test_overlap_tells_how_much_two_adapters_share(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a", mask=0, values=1)
        await server.push("b", mask=0, values=2)
        await server.push("c", mask=9, values=1)
        same = (await server.client.get("/overlap", params={"adapter": ["a", "a"]})).json()
        assert (same["shared"], same["sign_conflicts"], same["delta_cosine"]) == (128, 0, pytest.approx(1))
        masked = (await server.client.get("/overlap", params={"adapter": ["a", "b"]})).json()
        assert (masked["shared"], masked["only_first"], masked["only_second"]) == (128, 0, 0)
        assert 0 < masked["sign_conflicts"] < 128
        apart = (await server.client.get("/overlap", params={"adapter": ["a", "c"]})).json()
        assert apart["shared"] + apart["only_first"] == 128
        for wrong in (["a"], ["a", "b", "c"], ["a", "b/c"]):
            assert error_of(await server.client.get("/overlap", params={"adapter": wrong}), 400)["param"]
        error_of(await server.client.get("/overlap", params={"adapter": ["a", "nobody"]}), 404)
        assert server.store.describe()["claims"] == {}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
async def test_an_unknown_name_is_not_found_and_an_impossible_one_is_malformed(method: str, tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        body: dict[str, bool] | None = {"pinned": True} if method == "PATCH" else None
        error_of(await server.client.request(method, "/adapters/nobody", json=body), 404)
        for name in ("-a", "a%00", "%E9", "a" * 129, "a%20b"):
            error_of(await server.client.request(method, f"/adapters/{name}", json=body), 400)
        assert error_of(await server.client.get("/adapters/..%2Fa"), 404)["code"] == "route_not_found"


@pytest.mark.parametrize(
    "body", [{"version": "latest"}, {"pinned": "yes"}, {"tags": ["x" * 65]}, {"name": "b"}, {"tags": [""]}]
)
async def test_a_patch_past_its_form_is_refused(body: dict[str, object], tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        error_of(await server.client.patch("/adapters/a", json=body), 400)
