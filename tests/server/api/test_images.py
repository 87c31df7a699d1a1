"""What a base that draws answers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.api import image_answers
from server.core.errors import DeadlineExceeded, QueueFull
from server.core.requests import Picture
from server.engine.messages import FailEvent, ProgressEvent
from tests.server.api.rig import PICTURES, Rig, error_of, rig, sse_events

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path, PICTURES) as drawing:
        yield drawing


def picture_of(view: dict[str, Any]) -> Image.Image:
    assert view["media_type"] == "image/png"
    return Image.open(io.BytesIO(base64.b64decode(view["b64"], validate=True)))


async def test_a_prompt_becomes_a_picture_with_a_receipt(server: Rig) -> None:
    version = (await server.push("ink")).json()["version"]
    answer = (await server.generate(adapter="ink", parameters={"seed": 7})).json()
    assert answer.keys() == {"id", "images", "finish_reason", "usage", "receipt"}
    assert answer["receipt"]["adapters"] == [{"name": "ink", "version": version, "scale": 1.0}]
    assert (answer["finish_reason"], answer["usage"]) == ("stop", {"num_steps": 4, "num_images": 1})
    [view] = answer["images"]
    assert view.keys() == {"b64", "media_type", "seed"}
    picture = picture_of(view)
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (32, 64))
    assert picture.getcolors() == [(32 * 64, (7, 4, 0))]


def test_a_picture_survives_its_encoding_pixel_by_pixel() -> None:
    rgb = bytes(range(256)) * 3
    told = Image.open(io.BytesIO(image_answers.png(Picture(width=16, height=16, rgb=rgb))))
    assert (told.size, told.tobytes()) == ((16, 16), rgb)


async def test_what_is_absent_is_as_the_base_has_it(server: Rig) -> None:
    await server.generate()
    [asked] = server.engine.images
    assert (asked.height, asked.width, asked.max_new_tokens) == (64, 32, 4)
    assert (asked.guidance_scale, asked.scheduler, asked.negative_prompt, asked.preview_every) == (None, None, None, 0)
    assert (asked.mode, asked.token_cost) == ("fused", 1.0)


async def test_what_was_asked_reaches_the_engine(server: Rig) -> None:
    parameters = {
        "num_inference_steps": 7,
        "guidance_scale": 3.5,
        "height": 16,
        "width": 128,
        "negative_prompt": "no frogs",
        "seed": 3,
        "scheduler": "euler",
        "previews": 2,
    }
    await server.generate(
        prompt="a frog", parameters=parameters, stream=True, deadline_ms=1500, fusion={"method": "switch", "every": 3}
    )
    [asked] = server.engine.images
    assert (asked.prompt, asked.negative_prompt, asked.scheduler) == ("a frog", "no frogs", "euler")
    assert (asked.max_new_tokens, asked.guidance_scale, asked.seed, asked.preview_every) == (7, 3.5, 3, 2)
    assert (asked.height, asked.width) == (16, 128)
    assert (asked.blend.fusion.method, asked.blend.fusion.every) == ("switch", 3)
    assert asked.deadline_s == pytest.approx(asked.arrived_s + 1.5)


async def test_both_modes_mean_that_each_step_has_its_blend_in_the_weights(server: Rig) -> None:
    for mode in ("auto", "fused"):
        assert (await server.generate(mode=mode)).status_code == 200
    assert [asked.mode for asked in server.engine.images] == ["fused", "fused"]


async def test_every_picture_is_a_request_of_its_own_with_the_next_seed(server: Rig) -> None:
    answer = (await server.generate(parameters={"num_images": 3, "seed": 2**63 - 2})).json()
    seeds = [2**63 - 2, 2**63 - 1, 0]
    assert [asked.seed for asked in server.engine.images] == seeds
    assert len({asked.id for asked in server.engine.images}) == 3
    assert [view["seed"] for view in answer["images"]] == seeds
    assert all(view["receipt"]["blend_key"] == answer["receipt"]["blend_key"] for view in answer["images"])
    assert answer["usage"] == {"num_steps": 12, "num_images": 3}


async def test_a_seed_that_was_not_given_is_told_so_that_the_picture_can_be_drawn_again(server: Rig) -> None:
    first = (await server.generate(parameters={"num_images": 2})).json()["images"]
    assert first[1]["seed"] == first[0]["seed"] + 1
    again = (await server.generate(parameters={"seed": first[1]["seed"]})).json()["images"][0]
    assert again["b64"] == first[1]["b64"]
    seeds = {(await server.generate()).json()["images"][0]["seed"] for _ in range(8)}
    assert len(seeds) > 1


async def test_a_step_weighs_as_many_pixels_and_runs_as_it_has(server: Rig) -> None:
    await server.push("a", values=1)
    await server.push("b", values=2)
    weighed = [
        ({"height": 128}, {}, "a", 2.0),
        ({}, {"method": "composite"}, ["a", "b"], 2.0),
        ({"height": 32}, {"method": "composite"}, ["a", "b"], 1.0),
        ({}, {"method": "composite"}, "a", 1.0),
        ({}, {"method": "switch"}, ["a", "b"], 1.0),
        ({}, {"method": "sum"}, ["a", "b"], 1.0),
    ]
    for parameters, fusion, adapter, cost in weighed:
        assert (await server.generate(parameters=parameters, fusion=fusion, adapter=adapter)).status_code == 200
        assert server.engine.images[-1].token_cost == cost


async def test_a_single_picture_comes_as_its_bytes_where_they_are_accepted(server: Rig) -> None:
    await server.push("ink")
    body = {"prompt": "x", "adapter": "ink", "parameters": {"seed": 9}}
    response = await server.client.post("/generate", json=body, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).getpixel((0, 0)) == (9, 4, 0)
    assert response.headers["x-shira-seed"] == "9"
    as_json = (await server.client.post("/generate", json=body)).json()
    assert json.loads(response.headers["x-shira-receipt"]) == as_json["receipt"]
    assert base64.b64decode(as_json["images"][0]["b64"]) == response.content


@pytest.mark.parametrize(
    ("accept", "stream", "media_type"),
    [
        ("*/*", False, "application/json"),
        ("", False, "application/json"),
        ("application/json, image/png", False, "application/json"),
        ("image/png, */*;q=0.1", False, "image/png"),
        ("image/png, */*", False, "image/png"),
        ("IMAGE/*", False, "image/png"),
        ("image/png;q=0.2, application/json;q=0.1", False, "image/png"),
        ("text/event-stream", True, "text/event-stream"),
        ("application/json", True, "text/event-stream"),
        ("*/*", True, "text/event-stream"),
    ],
)
async def test_the_answer_is_of_a_type_that_is_accepted(
    *, accept: str, stream: bool, media_type: str, server: Rig
) -> None:
    body = {"prompt": "x", "stream": stream}
    response = await server.client.post("/generate", json=body, headers={"Accept": accept})
    assert response.headers["content-type"].partition(";")[0] == media_type


@pytest.mark.parametrize(
    ("accept", "body", "words"),
    [
        ("image/png", {"parameters": {"num_images": 2}}, "one picture, and num_images is 2"),
        ("image/png", {"stream": True}, "image/png is no stream"),
        ("image/webp", {}, "expected one of application/json, image/png"),
        ("image/png;q=0, text/html", {}, "expected one of"),
    ],
)
async def test_what_cannot_be_told_in_an_accepted_type_is_refused(
    accept: str, body: dict[str, Any], words: str, server: Rig
) -> None:
    response = await server.client.post("/generate", json={"prompt": "x", **body}, headers={"Accept": accept})
    error = error_of(response, 406)
    assert (error["code"], words in error["message"]) == ("not_acceptable", True)
    assert server.engine.requests == []


async def test_a_stream_counts_the_steps_and_ends_with_the_picture_then_done(server: Rig) -> None:
    whole = (await server.generate(parameters={"seed": 1})).json()
    response = await server.generate(stream=True, parameters={"seed": 1})
    assert response.headers["content-type"].startswith("text/event-stream")
    *steps, last, done = sse_events(response.text)
    assert steps == [{"step": step, "num_steps": 4} for step in (1, 2, 3, 4)]
    assert last == whole | {"id": last["id"]}
    assert done == "[DONE]"
    assert server.count("requests", "/generate", "ok") == 2


async def test_previews_come_after_as_many_steps_as_were_asked_for(server: Rig) -> None:
    *steps, _, _ = sse_events((await server.generate(stream=True, parameters={"seed": 1, "previews": 2})).text)
    assert [step["step"] for step in steps if "preview" in step] == [2, 4]
    assert picture_of(steps[1]["preview"]).getpixel((0, 0)) == (1, 2, 0)


async def test_a_stream_of_several_pictures_says_whose_each_event_is_and_is_done_once(server: Rig) -> None:
    *events, done = sse_events((await server.generate(stream=True, parameters={"num_images": 2, "seed": 5})).text)
    assert done == "[DONE]"
    for index in (0, 1):
        *steps, last = [event for event in events if event["index"] == index]
        assert [step["step"] for step in steps] == [1, 2, 3, 4]
        assert [view["seed"] for view in last["images"]] == [5 + index]
    usages = [event["usage"] for event in events if "usage" in event]
    assert usages == [{"num_steps": 4 * ended, "num_images": ended} for ended in (1, 2)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_step_has_its_own_status(*, server: Rig, stream: bool) -> None:
    server.engine.script = [FailEvent(error=QueueFull(limit=8, retry_after_s=3))]
    assert error_of(await server.generate(stream=stream), 429)["code"] == "queue_full"


@pytest.mark.parametrize("stream", [False, True])
async def test_one_picture_that_fails_ends_them_all(*, server: Rig, stream: bool) -> None:
    server.engine.script = [
        ProgressEvent(num_done=1, num_steps=4),
        FailEvent(error=DeadlineExceeded(deadline_ms=5)),
    ]
    response = await server.generate(stream=stream, parameters={"num_images": 3})
    error = sse_events(response.text)[-1]["error"] if stream else error_of(response, 504)
    assert error["code"] == "deadline_exceeded"
    assert server.engine.aborted == [asked.id for asked in server.engine.requests]
    assert server.count("requests", "/generate", "deadline_exceeded") == 1


async def test_no_picture_is_encoded_on_the_event_loop(server: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large one takes longer than many a step."""
    encoded_on = []
    encode = image_answers.png

    def png(picture: Picture) -> bytes:
        encoded_on.append(threading.get_ident())
        return encode(picture)

    monkeypatch.setattr(image_answers, "png", png)
    await server.generate()
    await server.generate(stream=True, parameters={"previews": 1})
    assert len(encoded_on) == 6
    assert threading.get_ident() not in encoded_on


async def test_who_is_slow_to_take_the_picture_holds_no_adapter(server: Rig) -> None:
    await server.push("ink")
    body = json.dumps({"prompt": "x", "adapter": "ink"}).encode()
    messages = [{"type": "http.request", "body": body}]
    is_sending = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(_: object) -> None:
        is_sending.set()
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/generate", "query_string": b"", "http_version": "1.1"}
    headers = {"headers": [(b"content-type", b"application/json")]}
    asking = asyncio.create_task(server.app(scope | headers, receive, send))
    await is_sending.wait()
    assert server.store.describe()["claims"] == {}
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
