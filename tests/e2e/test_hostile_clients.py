"""Every bad input that is known to have hurt some server: a clear refusal each, and weights untouched after all."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from loadtest.live_server import LiveServer, wait_until
from tests.e2e.conftest import RealAdapters

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module", autouse=True)
def weights_are_untouched_by_all_of_this(server: LiveServer) -> Any:
    before = server.generate("a")["text"]
    listed = {adapter["name"] for adapter in server.client.get("/adapters").json()["adapters"]}
    yield
    assert {adapter["name"] for adapter in server.client.get("/adapters").json()["adapters"]} == listed
    assert server.generate("a")["text"] == before
    server.assert_base_intact()


def upload(server: LiveServer, content: bytes, name: str = "bad") -> tuple[int, str]:
    response = server.client.post("/adapters", data={"name": name}, files={"file": ("x", content)})
    return response.status_code, response.json()["error"]["message"]


def native(adapters: RealAdapters, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> bytes:
    """Adapter ``a`` with something changed in its tensors or its manifest."""
    with safetensors.safe_open(adapters.paths["a"], framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("offsets", "indices", "values")}
        manifest = json.loads(file.metadata()["shira"])
    change(tensors, manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content: bytes = safetensors.torch.save(tensors, {"shira": text})
    return content


def raw(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def set_item(name: str, index: int, value: float) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(torch.int16 if name == "indices" else tensors[name].dtype)[index] = value

    return change


def set_row(field: str, value: object) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(_: dict[str, Tensor], manifest: dict[str, Any]) -> None:
        manifest["weights"][0][field] = value

    return change


def set_manifest(field: str, value: object) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    return lambda _, manifest: manifest.update({field: value})


NATIVE_CHANGES = {
    "unsorted": (set_item("indices", 1, 0), "sorted"),
    "out of range": (set_item("offsets", -1, 2**40), "offsets"),
    "NaN": (set_item("values", 7, float("nan")), "values"),
    "infinite": (set_item("values", 7, float("inf")), "values"),
    "shape": (set_row("shape", [1536, 576]), "down_proj"),
    "dtype": (set_row("dtype", "float32"), "dtype"),
    "base": (set_manifest("base", "sha256:" + "0" * 64), "base"),
    "unknown weight": (set_row("name", "model.layers.0.nothing.weight"), "nothing"),
    "count": (set_row("count", 1), "indices"),
    "float indices": (lambda tensors, _: tensors.update(indices=tensors["indices"].float() + 0.5), "indices"),
    "short values": (lambda tensors, _: tensors.update(values=tensors["values"][:-1].clone()), "values"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", NATIVE_CHANGES)
def test_a_changed_native_file_is_refused_naming_the_tensor_or_field(
    server: LiveServer, adapters: RealAdapters, what: str
) -> None:
    change, named = NATIVE_CHANGES[what]
    status, message = upload(server, native(adapters, change))
    assert status == 422
    assert named in message
    assert "expected" in message
    assert "got" in message


@pytest.mark.slow
def test_files_that_lie_about_themselves_are_refused(server: LiveServer, adapters: RealAdapters) -> None:
    whole = adapters.paths["a"].read_bytes()
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    files = {
        "empty": b"",
        "truncated header": whole[:100],
        "truncated data": whole[:-1],
        "trailing bytes": whole + b"\0",
        "header longer than the file": struct.pack("<Q", 2**63) + b"{}",
        "header that is no JSON": struct.pack("<Q", 4) + b"{{{{",
        "deep JSON": raw({"__metadata__": {"shira": "[" * 100_000}}, b""),
        "overlap": raw({"indices": entry, "values": entry}, bytes(16)),
        "hole": raw({"values": entry | {"data_offsets": [16, 32]}}, bytes(32)),
        "length that does not fit the shape": raw({"values": entry | {"shape": [5]}}, bytes(16)),
        "huge shape": raw({"values": entry | {"shape": [2**62, 2**62]}}, bytes(16)),
        "100,000 tiny tensors": raw(
            {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}, bytes(100_000)
        ),
    }
    for what, content in files.items():
        status, message = upload(server, content)
        assert status == 422, what
        assert message, what


def peft_files(indices: Tensor, values: Tensor | None = None, config: object = None) -> dict[str, Any]:
    values = torch.full((indices.shape[1],), 0.01) if values is None else values
    weights = {
        f"base_model.model.{Q0}.shira_indices": indices,
        f"base_model.model.{Q0}.shira_weight": values,
    }
    document = {"peft_type": "SHIRA", "r": 32, "target_modules": ["q_proj"]} if config is None else config
    return {"config": json.dumps(document).encode(), "weights": safetensors.torch.save(weights)}


GOOD = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
PEFT_UPLOADS: dict[str, tuple[dict[str, Any], str]] = {
    "negative": (peft_files(torch.tensor([[0, -1], [0, 0]], dtype=torch.int32)), "shira_indices"),
    "out of range": (peft_files(torch.tensor([[0, 576], [0, 0]], dtype=torch.int32)), "shira_indices"),
    "duplicate": (peft_files(torch.tensor([[1, 1], [2, 2]], dtype=torch.int32)), "shira_indices"),
    "fractions": (peft_files(torch.tensor([[0.0, 1.5], [0, 0]])), "shira_indices"),
    "NaN": (peft_files(GOOD, torch.tensor([0.1, float("nan"), 0.1])), "shira_weight"),
    "wrong count": (peft_files(GOOD, torch.tensor([0.1, 0.1])), "shira_indices"),
    "another method": (peft_files(GOOD, config={"peft_type": "LORA"}), "LORA"),
    "full tensors besides": (
        peft_files(GOOD, config={"peft_type": "SHIRA", "modules_to_save": ["x"]}),
        "modules_to_save",
    ),
    "config that is no JSON": ({**peft_files(GOOD), "config": b"\x80\x04pickle"}, "config"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", PEFT_UPLOADS)
def test_a_bad_peft_checkpoint_is_refused_naming_what_is_wrong(server: LiveServer, what: str) -> None:
    files, named = PEFT_UPLOADS[what]
    response = server.client.post("/adapters", data={"name": "bad"}, files=files)
    assert response.status_code == 422, response.text
    assert named in response.json()["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["a/b", "..", ".", "a\0b", "\u0430", "a\u202eb", "-a", "a" * 129, "", " a", "SmolLM2-135M-Instruct"],
)
def test_a_name_outside_the_rule_is_refused(server: LiveServer, adapters: RealAdapters, name: str) -> None:
    status, _ = upload(server, adapters.paths["a"].read_bytes(), name=name)
    assert status in (400, 409)


@pytest.mark.slow
def test_a_request_without_its_parts_or_of_another_type_is_refused(server: LiveServer, adapters: RealAdapters) -> None:
    content = adapters.paths["a"].read_bytes()
    post = server.client.post
    assert post("/adapters", files={"file": content}).status_code == 400
    assert post("/adapters", data={"name": "x"}, files={"other": b"x"}).status_code == 400
    assert post("/adapters", data={"name": "x"}, files={"config": b"{}"}).status_code == 400
    assert post("/adapters", content=content, headers={"content-type": "application/octet-stream"}).status_code == 415
    assert post("/adapters", json={"name": "x"}).status_code == 415
    assert post("/generate", content=b"prompt=x", headers={"content-type": "text/plain"}).status_code == 415


GENERATE_REFUSALS: dict[str, tuple[str, str]] = {
    "scale NaN": ('{"prompt": "x", "adapter": {"name": "a", "scale": NaN}}', "scale"),
    "scale 1e30": ('{"prompt": "x", "adapter": {"name": "a", "scale": 1e30}}', "100"),
    "scale beyond any float": ('{"prompt": "x", "adapter": {"name": "a", "scale": 1e999}}', "scale"),
    "33 adapters": (json.dumps({"prompt": "x", "adapter": [{"name": "a"}] * 33}), "32"),
    "the same adapter twice": ('{"prompt": "x", "adapter": ["a", "a"]}', "twice"),
    "an unknown field": ('{"prompt": "x", "adaptor": "a"}', "adaptor"),
    "too many tokens": ('{"prompt": "x", "parameters": {"max_new_tokens": 1000000000}}', "2048"),
    "no JSON": ('{"prompt": ', "JSON"),
    "nothing to complete": ("{}", "prompt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", GENERATE_REFUSALS)
def test_a_bad_request_is_refused_naming_the_field_or_the_limit(server: LiveServer, what: str) -> None:
    body, named = GENERATE_REFUSALS[what]
    response = server.client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


@pytest.mark.slow
def test_an_unknown_adapter_is_an_error_and_never_base_output(server: LiveServer) -> None:
    response = server.client.post("/generate", json={"prompt": "x", "adapter": "nobody"})
    assert response.status_code == 404
    assert "nobody" in response.json()["error"]["message"]


def talk(server: LiveServer, sent: bytes) -> bytes:
    """Sends bytes over a socket, closes its sending side; whatever answer came before the end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while received := connection.recv(65536):
                answer += received
        return answer


def upload_request(body: bytes, announced: int) -> bytes:
    head = "POST /adapters HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    return f"{head}Content-Length: {announced}\r\n\r\n".encode() + body


MULTIPART = (
    b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nbad\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
)


@pytest.mark.slow
def test_clients_that_vanish_or_lie_about_lengths_leave_nothing_behind(
    server: LiveServer, adapters: RealAdapters
) -> None:
    content = adapters.paths["a"].read_bytes()
    body = MULTIPART + content + b"\r\n--B--\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as vanishing:
        vanishing.sendall(upload_request(body[: len(body) // 2], len(body)))
    shorter = talk(server, upload_request(body, len(body) // 2))  # the rest looks like another, broken request
    assert b" 201 " not in shorter
    longer = talk(server, upload_request(body, len(body) + 1000))
    assert b" 201 " not in longer
    too_large = talk(server, upload_request(b"", 2**50))
    assert b" 413 " in too_large
    with server.client.stream(
        "POST", "/generate", json={"prompt": "x", "adapter": "a", "stream": True, "parameters": {"max_new_tokens": 500}}
    ) as stream:
        next(stream.iter_lines())
    wait_until(lambda: server.client.get("/admin/state").json()["engine"]["num_running"] == 0)
    wait_until(lambda: not [path for path in (server.data_dir / "tmp").rglob("*") if path.is_file()])


@pytest.mark.slow
def test_an_adapter_deleted_while_in_use_finishes_its_request_and_is_gone_then(
    server: LiveServer, adapters: RealAdapters
) -> None:
    server.push("short-lived", adapters.paths["c"])
    server.client.delete("/adapters/c").raise_for_status()  # the same version under another name stays
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(server.generate("short-lived", num_tokens=40)))
    asking.start()
    wait_until(lambda: server.client.get("/admin/state").json()["engine"]["num_running"] == 1)
    deleted = server.client.delete("/adapters/short-lived")
    asking.join()
    assert deleted.is_success, deleted.text
    assert answers[0]["usage"]["completion_tokens"] == 40
    assert answers[0]["receipt"]["adapters"][0]["name"] == "short-lived"
    assert server.client.post("/generate", json={"prompt": "x", "adapter": "short-lived"}).status_code == 404
    state = server.client.get("/admin/state").json()
    version = adapters.by_name["c"].version
    assert version not in json.dumps(state["engine"])
    assert version not in json.dumps(state["store"])
    server.push("c", adapters.paths["c"])
