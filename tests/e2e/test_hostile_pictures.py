"""Clients who ask for impossible pictures, stop reading, leave or come by the hundred: others are served, nothing
leaks."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from loadtest.live_server import checked, metric, wait_until
from loadtest.tiny_model import save_tiny_model
from server.app import build_app
from server.core.config import load_config
from tests.e2e.picture_world import MAX_BATCH, MAX_QUEUE, MAX_SIDE, PictureWorld, body
from tests.e2e.real_adapters import random_adapter
from tests.e2e.tiny_server import footprint, is_at_rest, state
from tests.server.api.rig import error_of

MIB = 1024**2
NUM_LARGEST = 7  # pictures of MAX_SIDE, in one request
DENOISED = 'shira_step_seconds_count{mode="fused",phase="denoise"}'


@pytest.fixture(scope="module", autouse=True)
def no_leak(pictures: PictureWorld) -> Iterator[None]:
    """Over all of this file: each look at the base costs a hundred requests."""
    with pictures.nothing_leaks():
        yield


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "height not divisible": (body(height=63), "parameters.height", "a multiple of 8 from 8 to 96, got 63"),
    "width 0": (body(width=0), "parameters.width", "greater than or equal to 1"),
    "larger than the limit": (body(width=136), "parameters.width", "from 8 to 96, got 136"),
    "a million pixels wide": (body(width=8 * 10**6), "parameters.width", "from 8 to 96"),
    "no steps": (body(num_inference_steps=0), "parameters.num_inference_steps", "greater than or equal to 1"),
    "a million steps": (body(num_inference_steps=10**6), "parameters.num_inference_steps", "at most 200"),
    "an unknown scheduler": (body(scheduler="karras"), "parameters.scheduler", "one of default, ddim"),
    "a scheduler's class": (body(scheduler="EulerDiscreteScheduler"), "parameters.scheduler", "one of default, ddim"),
    "one step too few": (body(scheduler="pndm", num_inference_steps=1), None, "1 steps of the scheduler pndm"),
    "a negative seed": (body(seed=-1), "parameters.seed", "greater than or equal to 0"),
    "a seed past 63 bits": (body(seed=2**63), "parameters.seed", "less than"),
    "17 pictures": (body(num_images=17), "parameters.num_images", "at most 16"),
    "a prompt of a megabyte": (body(prompt="a " * 2**19), "prompt", "at most 4096 characters"),
    "a prompt that would be cut": (body(prompt="dog " * 100), "prompt", "reads at most 77 tokens, got 102"),
    "half a character": (body(prompt="\ud800"), "prompt", "string"),
    "a long negative prompt": (body(negative_prompt="dog " * 100), "parameters.negative_prompt", "at most 77 tokens"),
    "previews of no stream": (body(previews=1), "parameters.previews", "only with stream"),
    "more previews than steps": (body(previews=5, stream=True), "parameters.previews", "at most the 4"),
    "a text's parameters": (body(max_new_tokens=8), "parameters.max_new_tokens", "for a base that writes text"),
    "the same adapter twice": (body(["a", "a"]), "adapter", "twice"),
    "turns of the text encoder": (body(["a", "reader"], method="switch"), "adapter", "unet."),
    "an adapter too strong": (body([{"name": "a", "scale": 1e30}]), "adapter.0.scale", "less than or equal to 100"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_drawn_is_refused_at_once_naming_field_and_limit(pictures: PictureWorld, what: str) -> None:
    asked, param, words = REFUSED[what]
    content = json.dumps(asked)  # lone surrogates and all
    began = time.monotonic()
    answer = pictures.server.client.post("/generate", content=content, headers={"content-type": "application/json"})
    error = error_of(answer, 400)
    assert error["param"] == param
    assert words in error["message"]
    assert len(error["message"]) < 600
    assert time.monotonic() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e-9"])
def test_a_guidance_that_is_no_number_is_refused(pictures: PictureWorld, number: str) -> None:
    content = f'{{"prompt": "x", "parameters": {{"guidance_scale": {number}}}}}'
    answer = pictures.server.client.post("/generate", content=content, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["param"] == "parameters.guidance_scale"


@pytest.mark.slow
def test_an_image_that_is_no_png_is_not_offered(pictures: PictureWorld) -> None:
    for accept, changes in (("image/jpeg", {}), ("image/png", {"num_images": 2}), ("image/png", {"stream": True})):
        answer = pictures.server.client.post("/generate", json=body(**changes), headers={"accept": accept})
        assert error_of(answer, 406)["code"] == "not_acceptable"


@pytest.mark.slow
def test_an_adapter_of_the_other_kind_of_base_is_refused_by_either(pictures: PictureWorld, tmp_path: Path) -> None:
    """The base that writes is an application in this process."""
    checkpoint = save_tiny_model(tmp_path / "tiny")
    text_adapter = tmp_path / "text.safetensors"
    write_adapter(random_adapter(describe_checkpoint(checkpoint), seed=1, sparsity=0.1), text_adapter)
    picture_adapter = pictures.checkpoint.with_name("a.safetensors")
    config = load_config({"model": str(checkpoint), "data_dir": tmp_path / "data", "redis": "off"}, {})
    writing: Any
    with TestClient(build_app(config), "http://localhost") as writing:
        for client, file in ((pictures.server.client, text_adapter), (writing, picture_adapter)):
            answer = client.post("/adapters", data={"name": "stray"}, files={"file": file.read_bytes()})
            assert error_of(answer, 422)["code"] == "adapter_base_mismatch"
            assert client.get("/adapters/stray").status_code == 404
        refused = writing.post("/generate", json={"prompt": "x", "parameters": {"height": 64}})
        assert "is for a base that draws pictures" in error_of(refused, 400)["message"]


@pytest.mark.slow
def test_readers_who_take_none_of_their_previews_hold_nobody_up_and_little_memory(pictures: PictureWorld) -> None:
    server = pictures.server
    with ExitStack() as stack:
        before = footprint(server)
        for _ in range(MAX_BATCH - 1):
            stalled = stack.enter_context(socket.socket())
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", server.port))
            stalled.sendall(request_bytes(num_inference_steps=16, previews=1, stream=True))
        wait_until(lambda: state(server)["engine"]["runner"]["num_images"] == MAX_BATCH - 1)
        for _ in range(3):
            pictures.ask("a", height=8, width=8, num_inference_steps=1)
        wait_until(lambda: state(server)["engine"]["num_running"] == 0, timeout_s=90)  # the engine waits for no reader
        assert footprint(server).rss_bytes - before.rss_bytes < 96 * MIB
    wait_until(lambda: is_at_rest(server))


@pytest.mark.slow
def test_hundreds_who_come_and_leave_at_any_moment(pictures: PictureWorld) -> None:
    server = pictures.server
    whole = request_bytes(num_inference_steps=200, height=16, width=16, previews=1, stream=True)
    before, denoised = footprint(server), metric(server.client, DENOISED)

    def come_and_go(number: int) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall((whole[:40], whole[:-10], whole, whole)[number % 4])
            if number % 4 == 3:
                connection.recv(1)  # in the middle of the answer
            if number % 2:  # a reset, not a goodbye
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(come_and_go, range(300)))
    wait_until(lambda: is_at_rest(server))
    assert metric(server.client, DENOISED) - denoised < 150 * 200 / 16  # what nobody waits for is not drawn to its end
    assert footprint(server).rss_bytes - before.rss_bytes < 64 * MIB


@pytest.mark.slow
def test_hundreds_at_once_are_drawn_for_or_told_when_to_come_back(pictures: PictureWorld) -> None:
    blends = [[], "a", "b", "reader"]
    bodies = [body(blends[n % 4], seed=n, height=8, width=8, num_inference_steps=1) for n in range(120)]
    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(lambda each: post(pictures, each), bodies))
    told = Counter(answer.status_code for answer in answers)
    assert set(told) == {200, 429}
    assert told[200] >= MAX_QUEUE
    for asked, answer in zip(bodies, answers, strict=True):
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        else:
            applied = [one["name"] for one in answer.json()["receipt"]["adapters"]]
            assert applied == ([asked["adapter"]] if asked["adapter"] else [])


@pytest.mark.slow
def test_many_who_each_ask_for_as_many_of_the_largest_pictures_as_they_may_keep_the_budget(
    pictures: PictureWorld,
) -> None:
    before = footprint(pictures.server)
    largest = body(num_images=NUM_LARGEST, height=MAX_SIDE, width=MAX_SIDE, num_inference_steps=1)
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: post(pictures, largest), range(12)))
    served = [checked(answer) for answer in answers if answer.status_code != 429]
    assert [len(answer["images"]) for answer in served] == [NUM_LARGEST] * len(served)
    assert MAX_QUEUE // NUM_LARGEST <= len(served) < len(answers)
    assert footprint(pictures.server).rss_bytes - before.rss_bytes < 96 * MIB


def request_bytes(**wishes: Any) -> bytes:
    content = json.dumps(body(**wishes)).encode()
    head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def post(pictures: PictureWorld, asked: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{pictures.server.client.base_url}/generate", json=asked, timeout=120)
