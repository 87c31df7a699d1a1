"""Pictures through HTTP: each is what it is alone, whatever else is drawn, and what diffusers and PEFT draw."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from loadtest.live_server import checked, metric, wait_until
from server.app import build_app
from server.core.config import load_config
from tests.e2e.picture_world import DENOISING, READING, PictureWorld, b64, body, named, picture_world, push_random
from tests.e2e.tiny_server import state
from tests.server.api.rig import error_of, sse_events
from tests.server.runners.test_pipeline_peft_oracle import merged_by_peft
from tests.server.runners.tiny_pipelines import FAMILIES, SIZE, Family, save_tiny_pipeline

DENOISED = 'shira_step_seconds_count{mode="fused",phase="denoise"}'
PIXEL_TOLERANCE = 1  # of 255: where float32 rounding falls on the edge between two colours

BLENDS: list[dict[str, Any]] = [
    body(),
    body("a"),
    body("b", negative_prompt="a worm", guidance_scale=3.0),
    body(READING),
    body(named(("a", 0.7), ("b", -0.5))),
    body(named("a", "b"), method="mean"),
    body(named("a", "b"), method="ram"),
    body(named("a", "b"), fusion={"method": "ties", "density": 0.5}),
    body(named("a", "b", "c"), method="switch"),
    body(named("a", "b"), fusion={"method": "switch", "every": 2}, scheduler="heun"),
    body(named("a", "b"), method="composite"),
]


def ask_at_once(world: PictureWorld, bodies: Sequence[dict[str, Any]]) -> list[httpx.Response]:
    async def gather() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=world.server.client.base_url, timeout=120) as client:
            return await asyncio.gather(*[client.post("/generate", json=each) for each in bodies])

    return asyncio.run(gather())


@pytest.mark.slow
def test_pictures_of_different_blends_side_by_side_are_byte_for_byte_those_of_each_alone(
    pictures: PictureWorld,
) -> None:
    with pictures.nothing_leaks():
        alone = [checked(pictures.server.client.post("/generate", json=each)) for each in BLENDS]
        together = [checked(answer) for answer in ask_at_once(pictures, BLENDS)]

    assert [b64(answer) for answer in together] == [b64(answer) for answer in alone]
    assert len({b64(answer) for answer in alone}) == len(BLENDS)
    for asked, before, after in zip(BLENDS, alone, together, strict=True):
        receipt = after["receipt"]
        of_adapter = asked["adapter"]
        members = named(of_adapter) if isinstance(of_adapter, str) else of_adapter
        assert receipt["adapters"] == [{**one, "version": pictures.versions[one["name"]]} for one in members]
        assert receipt["fusion"] == asked.get("fusion", {}).get("method", "sum")
        assert (receipt["mode"], receipt["blend_key"]) == ("fused", before["receipt"]["blend_key"])
        assert after["usage"] == before["usage"]
    assert len({answer["receipt"]["blend_key"] for answer in alone}) == len(BLENDS)
    assert together[-2]["usage"] == {"num_steps": 7, "num_images": 1}  # heun runs 2n - 1


@pytest.mark.slow
def test_hundreds_of_switches_between_denoising_steps_leave_the_base_as_it_was(pictures: PictureWorld) -> None:
    blends: list[Any] = [[], *DENOISING, READING, named(("a", 0.3), ("c", -1.0))]
    bodies = [body(blend, height=8, width=8, num_inference_steps=50) for blend in blends]
    before = num_switches(pictures)
    with pictures.nothing_leaks():
        for answer in ask_at_once(pictures, bodies):
            checked(answer)
    assert num_switches(pictures) - before > 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the libraries
def test_what_diffusers_saved_is_drawn_here_as_peft_merges_it(pictures: PictureWorld, tmp_path: Path) -> None:
    """The whole path: their file is uploaded, their pipeline, weights merged, is the oracle."""
    merged = merged_by_peft("sd", tmp_path)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    uploaded = pictures.server.push("of-diffusers", path)

    answer = pictures.ask("of-diffusers", seed=5)

    generator = torch.Generator().manual_seed(5)
    [expected] = merged("a cat and a dog", num_inference_steps=4, generator=generator).images
    assert differ(pixels(b64(answer)), np.asarray(expected)) <= PIXEL_TOLERANCE
    assert differ(pixels(b64(pictures.ask(seed=5))), np.asarray(expected)) > 10 * PIXEL_TOLERANCE
    assert answer["receipt"]["adapters"] == [{"name": "of-diffusers", "version": uploaded["version"], "scale": 1.0}]
    pictures.server.client.delete("/adapters/of-diffusers").raise_for_status()


@pytest.mark.slow
def test_switch_has_one_adapter_at_a_time_and_composite_all(pictures: PictureWorld) -> None:
    pair = named("a", "b")

    def drawn(adapter: Any, **fusion: Any) -> str:
        return b64(pictures.ask(adapter, fusion=fusion))

    first_alone, second_alone = drawn("a", method="sum"), drawn("b", method="sum")
    assert drawn(pair, method="switch", every=3) not in (first_alone, second_alone, drawn(pair, method="switch"))
    too_long = pictures.server.client.post("/generate", json=body(pair, fusion={"method": "switch", "every": 4}))
    assert error_of(too_long, 400)["param"] == "fusion.every"
    assert drawn(pair, method="switch") != drawn(named("b", "a"), method="switch")
    assert drawn(pair, method="composite") == drawn(named("b", "a"), method="composite")
    assert drawn(named("a"), method="composite") == first_alone
    refused = pictures.server.client.post("/generate", json=body(named("a", READING), method="switch"))
    assert error_of(refused, 400)["code"] == "blend_rejected"


@pytest.mark.slow
def test_progress_and_previews_come_in_order_and_the_picture_last(pictures: PictureWorld) -> None:
    asked = body("a", num_inference_steps=6, previews=2)
    whole = pictures.ask("a", num_inference_steps=6)
    with pictures.server.client.stream("POST", "/generate", json={**asked, "stream": True}) as answer:
        *progress, last, end = sse_events("".join(answer.iter_text()))

    steps = [event["step"] for event in progress]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6
    assert {event["num_steps"] for event in progress} == {6}
    previews = [event for event in progress if "preview" in event]
    assert previews
    for event in previews:
        shown = pixels(event["preview"]["b64"])
        assert 0 < max(shown.shape[:2]) <= SIZE
    assert last["images"][0] == whole["images"][0]
    assert last["usage"] == whole["usage"]
    assert last["receipt"]["blend_key"] == whole["receipt"]["blend_key"]
    assert end == "[DONE]"


@pytest.mark.slow
def test_the_picture_itself_is_the_bytes_of_the_json_answer(pictures: PictureWorld) -> None:
    whole = pictures.ask("b")
    answer = pictures.server.client.post("/generate", json=body("b"), headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert base64.b64encode(answer.content).decode() == b64(whole)
    assert pixels(b64(whole)).shape == (SIZE, SIZE, 3)
    assert json.loads(answer.headers["x-shira-receipt"])["blend_key"] == whole["receipt"]["blend_key"]
    assert answer.headers["x-shira-seed"] == "1"


@pytest.mark.slow
def test_several_pictures_are_those_of_single_requests_with_the_seeds_that_follow(pictures: PictureWorld) -> None:
    several = pictures.ask("c", seed=11, num_images=4)
    single = [b64(pictures.ask("c", seed=11 + place)) for place in range(4)]
    assert [image["b64"] for image in several["images"]] == single
    assert [image["seed"] for image in several["images"]] == [11, 12, 13, 14]
    assert several["usage"] == {"num_steps": 16, "num_images": 4}
    assert len(set(single)) == 4


@pytest.mark.slow
def test_a_stream_that_is_closed_stops_being_drawn(pictures: PictureWorld) -> None:
    asked = body("a", num_inference_steps=200, num_images=4, stream=True)
    with pictures.nothing_leaks():
        before = metric(pictures.server.client, DENOISED)
        with pictures.server.client.stream("POST", "/generate", json=asked) as answer:
            next(answer.iter_lines())
        wait_until(lambda: state(pictures.server)["engine"]["runner"]["num_images"] == 0)
        assert metric(pictures.server.client, DENOISED) - before < 100


@pytest.mark.slow
def test_a_deadline_that_passes_between_steps_ends_the_picture_with_504(pictures: PictureWorld) -> None:
    with pictures.nothing_leaks():
        late = pictures.server.client.post("/generate", json=body(num_inference_steps=200, deadline_ms=300))
        assert error_of(late, 504)["code"] == "deadline_exceeded"


@pytest.mark.slow
def test_an_adapter_deleted_while_it_draws_finishes_its_picture_and_is_gone_then(pictures: PictureWorld) -> None:
    server = pictures.server
    version = push_random(server, pictures.checkpoint, "short-lived", 77)
    answers: list[dict[str, Any]] = []
    drawing = threading.Thread(target=lambda: answers.append(pictures.ask("short-lived", num_inference_steps=40)))
    with pictures.nothing_leaks():
        drawing.start()
        wait_until(lambda: state(server)["engine"]["runner"]["num_images"] == 1)
        server.client.delete("/adapters/short-lived").raise_for_status()
        drawing.join()
        assert answers[0]["receipt"]["adapters"][0]["version"] == version
        error_of(server.client.post("/generate", json=body("short-lived")), 404)
        wait_until(lambda: version not in json.dumps(state(server)))


@pytest.mark.slow
def test_every_scheduler_of_the_base_draws_and_few_draw_the_same(pictures: PictureWorld) -> None:
    names = state(pictures.server)["base"]["pictures"]["schedulers"]
    assert len(names) > 10
    bodies = [body("a", scheduler=name, height=32, width=32, num_inference_steps=6) for name in names]
    drawn = [b64(checked(answer)) for answer in ask_at_once(pictures, bodies)]
    assert len(set(drawn)) > len(names) // 2
    too_few = pictures.server.client.post("/generate", json=body(scheduler="pndm", num_inference_steps=2))
    assert "2 steps of the scheduler pndm" in error_of(too_few, 400)["message"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the libraries
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "sd"])
def test_every_family_draws_as_diffusers_does(family: Family, tmp_path: Path) -> None:
    """Its application in this process, engine thread and all."""
    from diffusers import AutoPipelineForText2Image

    checkpoint = save_tiny_pipeline(family, tmp_path / family)
    config = load_config({"model": str(checkpoint), "data_dir": tmp_path / "data", "redis": "off", "device": "cpu"}, {})
    wishes: dict[str, Any] = {"height": 32, "width": 32}
    client: Any
    with TestClient(build_app(config), "http://localhost") as client:
        answer = checked(client.post("/generate", json=body(seed=5, **wishes)))
        audit = client.post("/admin/verify")
        negative = client.post("/generate", json=body(negative_prompt="a worm", **wishes))
    oracle = AutoPipelineForText2Image.from_pretrained(checkpoint)
    oracle.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    [expected] = oracle("a cat and a dog", num_inference_steps=4, generator=generator, **wishes).images
    assert differ(pixels(b64(answer)), np.asarray(expected)) <= PIXEL_TOLERANCE
    assert audit.json()["ok"] is True
    if family in ("flux", "lcm"):
        assert error_of(negative, 400)["message"] == "parameters.negative_prompt: this base has none"
    else:
        assert b64(checked(negative)) != b64(answer)


@pytest.mark.slow
def test_a_stop_lets_short_pictures_end_and_tells_the_others(tmp_path: Path) -> None:
    with picture_world(tmp_path, "sd", "--drain-s", "1") as world, ThreadPoolExecutor(2) as clients:
        long = body(num_inference_steps=200, num_images=15, stream=True)
        streamed = clients.submit(httpx.post, f"{world.server.client.base_url}/generate", json=long, timeout=60)
        wait_until(lambda: state(world.server)["engine"]["runner"]["num_images"] == 15)
        short = body("a", num_inference_steps=1, height=8, width=8)
        whole = clients.submit(httpx.post, f"{world.server.client.base_url}/generate", json=short, timeout=60)
        wait_until(lambda: state(world.server)["engine"]["runner"]["num_images"] == 16 or whole.done())
        world.server.process.send_signal(signal.SIGTERM)
        assert b64(checked(whole.result()))
        assert sse_events(streamed.result().text)[-1]["error"]["code"] == "draining"
        assert world.server.process.wait(timeout=30) == 0
        told = world.server.log_path.read_text()
    assert "Traceback" not in told
    assert "leaked" not in told


def num_switches(world: PictureWorld) -> float:
    told = world.server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in told if line.startswith("shira_switches_total{"))


def pixels(data: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGB"))


def differ(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    return int(np.abs(one.astype(int) - other).max())
