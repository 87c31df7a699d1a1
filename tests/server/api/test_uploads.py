"""Uploads that are not what they should be: each a clear refusal, nothing listed, nothing left on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save

from adapters_store.adapter import Fingerprint, build_adapter
from tests.adapters_store.small_adapters import small_adapter
from tests.server.api.rig import Rig, error_of, native_file, rig
from tests.server.fakes import FINGERPRINT

pytestmark = pytest.mark.anyio

NAME = "layers.0.weight"
PEFT_CONFIG = {"peft_type": "SHIRA", "r": 1, "target_modules": ["0"]}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with rig(tmp_path_factory.mktemp("uploads")) as shared:
        yield shared


@pytest.fixture(autouse=True)
async def nothing_is_left(server: Rig) -> AsyncIterator[None]:
    yield
    assert (await server.client.get("/adapters")).json()["adapters"] == []
    scratch = server.services.config.data_dir / "scratch"
    assert not scratch.exists() or list(scratch.iterdir()) == []
    assert server.store.describe()["disk"]["num_adapters"] == 0


def native(scratch: Path) -> bytes:
    return native_file(scratch, small_adapter(base=FINGERPRINT))


def with_header(data: bytes, **changes: Any) -> bytes:
    """The same tensors under a header of which some entries are replaced."""
    length = struct.unpack("<Q", data[:8])[0]
    header = {**json.loads(data[8 : 8 + length]), **changes}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


async def send(server: Rig, data: bytes, **fields: str) -> httpx.Response:
    return await server.client.post("/adapters", data={"name": "bad", **fields}, files={"file": data})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"\x00",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\x00",
        lambda data: struct.pack("<Q", 2**63) + data[8:],
        lambda data: struct.pack("<Q", 10) + data[8:],
        lambda data: b"PK\x03\x04" + data[4:],
        lambda data: data.replace(b'"U16"', b'"I16"'),
        lambda data: with_header(data, extra={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
        lambda data: with_header(data, values={"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}),
        lambda data: with_header(data, values={"dtype": "F32", "shape": [128], "data_offsets": [0, 512]}),
    ],
)
async def test_a_file_that_lies_about_itself_is_rejected(spoil: Any, server: Rig, tmp_path: Path) -> None:
    error = error_of(await send(server, spoil(native(tmp_path))), 422)
    assert error["code"] in ("adapter_rejected", "adapter_limit_exceeded")
    assert ": expected " in error["message"]


async def test_a_rejection_names_tensor_check_expected_and_got(server: Rig, tmp_path: Path) -> None:
    values = small_adapter().values.clone()
    values[3] = torch.nan
    spoilt = build_adapter(base=FINGERPRINT, index_set=small_adapter().index_set, values=values)
    error = error_of(await send(server, native_file(tmp_path, spoilt)), 422)
    assert error["param"] in ("values", NAME)
    assert f"{error['param']}: finite: expected " in error["message"]
    assert "nan" in error["message"].lower()


async def test_an_adapter_of_another_base_is_rejected_as_such(server: Rig, tmp_path: Path) -> None:
    other = small_adapter(base=Fingerprint("sha256:" + "cd" * 32))
    error = error_of(await send(server, native_file(tmp_path, other)), 422)
    assert (error["code"], FINGERPRINT in error["message"]) == ("adapter_base_mismatch", True)


async def test_both_files_of_a_peft_checkpoint_make_an_adapter_of_unverified_base(server: Rig) -> None:
    tensors = {
        "base_model.model.layers.0.shira_indices": torch.tensor([[3, 0], [5, 7]], dtype=torch.int32),
        "base_model.model.layers.0.shira_weight": torch.tensor([0.5, -0.25]),
    }
    files = {"config": json.dumps(PEFT_CONFIG).encode(), "weights": save(tensors)}
    response = await server.client.post("/adapters", data={"name": "peft"}, files=files)
    assert (response.status_code, response.json()["base_verified"]) == (201, False)
    assert (await server.client.delete("/adapters/peft")).status_code == 200
    for spoilt in (b"{", b"[]", b'{"peft_type": "LORA"}'):
        response = await server.client.post("/adapters", data={"name": "peft"}, files={**files, "config": spoilt})
        error_of(response, 422)


@pytest.mark.parametrize(
    ("fields", "parts", "param"),
    [
        ({}, ["file"], "name"),
        ({"name": "a"}, [], "file"),
        ({"name": "a"}, ["config"], "file"),
        ({"name": "a"}, ["weights"], "file"),
        ({"name": "a"}, ["file", "weights"], "file"),
        ({"name": "a"}, ["file", "config", "weights"], "file"),
        ({"name": "a", "colour": "red"}, ["file"], "colour"),
        ({"name": "a"}, ["file", "pickle"], "pickle"),
        ({"name": ["a", "b"]}, ["file"], "name"),
        ({"name": "a", "description": "x" * 70_000}, ["file"], "description"),
    ],
)
async def test_missing_unknown_or_repeated_parts_are_named(
    fields: dict[str, Any], parts: list[str], param: str, server: Rig
) -> None:
    files = [(part, ("x", b"x")) for part in parts] or None
    if files is None:  # still multipart
        files = [(name, (None, value.encode())) for name, value in fields.items()]  # type: ignore[misc]
        fields = {}
    error = error_of(await server.client.post("/adapters", data=fields, files=files), 400)
    assert error["param"] == param


async def test_the_same_file_twice_in_one_body_is_refused(server: Rig) -> None:
    files = [("file", ("x", b"x")), ("file", ("y", b"y"))]
    assert error_of(await server.client.post("/adapters", data={"name": "a"}, files=files), 400)["param"] == "file"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../etc/passwd", "a/b", "a\\b", "a\x00b", "-a", "ａ", "a\u202eb", "a" * 129, "a b", "é", "a\n"],
)
async def test_a_name_that_could_be_a_path_or_a_trick_is_refused(name: str, server: Rig, tmp_path: Path) -> None:
    error = error_of(await send(server, native(tmp_path), name=name), 400)
    assert error["param"] == "name"


@pytest.mark.parametrize("name", ["tiny-base", "TINY-Base"])
async def test_the_base_models_name_is_reserved(name: str, server: Rig, tmp_path: Path) -> None:
    assert "reserved" in error_of(await send(server, native(tmp_path), name=name), 400)["message"]


async def test_tags_and_descriptions_past_their_limits_are_rejected(server: Rig, tmp_path: Path) -> None:
    data = native(tmp_path)
    for fields in ({"tags": "x" * 65}, {"tags": ",".join(map(str, range(33)))}, {"description": "x" * 4097}):
        error = error_of(await send(server, data, **fields), 422)
        assert error["param"] in fields


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/octet-stream", "multipart/form-data", "", None]
)
async def test_another_content_type_is_refused(content_type: str | None, server: Rig) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    error = error_of(await server.client.post("/adapters", content=b"x", headers=headers), 415)
    assert "multipart/form-data" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"nonsense",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na',
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n--x\r\n',
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n--x--\r\n',
        b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--x--\r\n",
    ],
    ids=range(9),
)
async def test_a_body_that_is_not_multipart_is_refused(body: bytes, server: Rig) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error_of(await server.client.post("/adapters", content=body, headers=headers), 400)


async def test_every_refusal_is_counted_by_its_code(server: Rig) -> None:
    before = server.count("uploads", "adapter_rejected")
    await send(server, b"x")
    assert server.count("uploads", "adapter_rejected") == before + 1
