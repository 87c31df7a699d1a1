"""What a request for a picture may not be: refused with field and limit, and nothing reaches the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.server.api.rig import PICTURES, Rig, error_of, rig
from tests.server.fakes import WordPrompts

pytestmark = pytest.mark.anyio

SIDES = "a multiple of 8 from 8 to 128"
OF_TEXT = "is for a base that writes text; this one draws pictures"


def of(**parameters: Any) -> dict[str, Any]:
    return {"prompt": "once upon", "parameters": parameters}


REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no prompt": ({}, "prompt", "Field required"),
    "empty prompt": ({"prompt": ""}, "prompt", "at least 1 character"),
    "prompt of a megabyte": ({"prompt": "a" * 2**20}, "prompt", "at most 4096 characters"),
    "prompt past the encoder": ({"prompt": "a " * 9}, "prompt", "reads at most 8 tokens, got 9"),
    "negative prompt of a megabyte": (of(negative_prompt="a" * 2**20), "parameters.negative_prompt", "at most 4096"),
    "negative prompt past the encoder": (of(negative_prompt="a " * 9), "parameters.negative_prompt", "at most 8"),
    "chat": ({"messages": [{"role": "user", "content": "x"}]}, "messages", OF_TEXT),
    "new tokens": (of(max_new_tokens=5), "parameters.max_new_tokens", OF_TEXT),
    "several answers": (of(n=2), "parameters.n", OF_TEXT),
    "temperature": (of(temperature=0.5), "parameters.temperature", OF_TEXT),
    "unknown field": ({"prompt": "x", "style": "ink"}, "style", "not permitted"),
    "unknown parameter": (of(steps=5), "parameters.steps", "not permitted"),
    "height not divisible": (of(height=63), "parameters.height", f"{SIDES}, got 63"),
    "width not divisible": (of(width=127), "parameters.width", f"{SIDES}, got 127"),
    "height 0": (of(height=0), "parameters.height", "greater than or equal to 1"),
    "negative width": (of(width=-64), "parameters.width", "greater than or equal to 1, got -64"),
    "a billion pixels high": (of(height=10**9), "parameters.height", f"{SIDES}, got 1000000000"),
    "wider than any number": (of(width=10**100), "parameters.width", SIDES),
    "a little too wide": (of(width=136), "parameters.width", f"{SIDES}, got 136"),
    "half a pixel": (of(width=64.5), "parameters.width", "valid integer"),
    "no steps": (of(num_inference_steps=0), "parameters.num_inference_steps", "greater than or equal to 1"),
    "a million steps": (of(num_inference_steps=10**6), "parameters.num_inference_steps", "at most 200, got 1000000"),
    "no pictures": (of(num_images=0), "parameters.num_images", "greater than or equal to 1"),
    "17 pictures": (of(num_images=17), "parameters.num_images", "at most 16 of 64×32 pixels, got 17"),
    "negative guidance": (of(guidance_scale=-1), "parameters.guidance_scale", "greater than or equal to 0"),
    "huge guidance": (of(guidance_scale=1e30), "parameters.guidance_scale", "less than or equal to 100"),
    "negative seed": (of(seed=-1), "parameters.seed", "greater than or equal to 0, got -1"),
    "seed past the highest": (of(seed=2**63), "parameters.seed", "less than 9223372036854775808"),
    "unknown scheduler": (of(scheduler="euler2"), "parameters.scheduler", "one of ddim, euler; got 'euler2'"),
    "long scheduler": (of(scheduler="e" * 101), "parameters.scheduler", "at most 100 characters"),
    "previews without stream": (of(previews=1), "parameters.previews", "only with stream"),
    "previews of no steps": ({**of(previews=0), "stream": True}, "parameters.previews", "greater than or equal to 1"),
    "previews past the end": ({**of(previews=5), "stream": True}, "parameters.previews", "at most the 4 denoising"),
    "unknown mode": ({"prompt": "x", "mode": "mixed"}, "mode", "'auto' or 'fused'"),
    "unknown fusion": ({"prompt": "x", "fusion": {"method": "dare"}}, "fusion.method", "'composite'"),
    "every for sum": ({"prompt": "x", "fusion": {"every": 2}}, "fusion", "every has no meaning for the method sum"),
    "every 0": ({"prompt": "x", "fusion": {"method": "switch", "every": 0}}, "fusion.every", "equal to 1"),
    "every 1001": ({"prompt": "x", "fusion": {"method": "switch", "every": 1001}}, "fusion.every", "equal to 1000"),
    "density for switch": ({"prompt": "x", "fusion": {"method": "switch", "density": 0.5}}, "fusion", "only for ties"),
    "deadline too long": ({"prompt": "x", "deadline_ms": 600_001}, "deadline_ms", "at most 600000"),
    "33 adapters": ({"prompt": "x", "adapter": [f"a{n}" for n in range(33)]}, "adapter", "at most 32"),
}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One for all that must leave no trace in it; it still answers at the end."""
    async with rig(tmp_path_factory.mktemp("refusals"), PICTURES) as shared:
        await shared.push("a")
        yield shared
        assert (await shared.generate(adapter="a")).status_code == 200
        assert shared.store.describe()["claims"] == {}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_body_past_a_limit_is_refused_naming_field_and_limit(case: str, server: Rig) -> None:
    body, param, words = REFUSED[case]
    error = error_of(await server.client.post("/generate", json=body), 400)
    assert error["code"] == "invalid_request"
    assert error["param"] == param
    assert words in error["message"]
    assert len(error["message"]) < 500
    assert server.engine.requests == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_guidance_that_is_no_finite_number_is_refused(number: str, server: Rig) -> None:
    content = f'{{"prompt": "x", "parameters": {{"guidance_scale": {number}}}}}'
    headers = {"content-type": "application/json"}
    error = error_of(await server.client.post("/generate", content=content, headers=headers), 400)
    assert error["param"] == "parameters.guidance_scale"
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("adapters", "num_steps", "every", "message"),
    [
        ("abc", 2, None, "parameters.num_inference_steps: at least 3, as many as adapters take turns, got 2"),
        ("abc", 2, 50, "parameters.num_inference_steps: at least 3, as many as adapters take turns, got 2"),
        (
            "ab",
            3,
            50,
            "fusion.every: at most 2, so that each of 2 adapters has its turn in 3 denoising steps, got 50",
        ),
        ("abc", 4, 2, "fusion.every: at most 1, so that each of 3 adapters has its turn in 4 denoising steps, got 2"),
    ],
)
async def test_adapters_that_would_never_have_their_turn_are_refused(
    adapters: str, num_steps: int, every: int | None, message: str, tmp_path: Path
) -> None:
    """Those that came after the last step were never in the weights, and the receipt named them."""
    async with rig(tmp_path, PICTURES) as server:
        for values, name in enumerate(adapters):
            await server.push(name, values=values + 1)

        def asked(num_steps: int, method: str = "switch", every: int | None = None) -> Any:
            fusion = {"method": method} | ({} if every is None else {"every": every})
            return server.generate(adapter=[*adapters], fusion=fusion, parameters={"num_inference_steps": num_steps})

        error = error_of(await asked(num_steps, every=every), 400)
        assert (error["param"], error["message"]) == (message.partition(":")[0], message)
        assert server.engine.requests == []
        assert server.store.describe()["claims"] == {}
        just_enough = 1 + (every or 1) * (len(adapters) - 1)
        assert (await asked(just_enough, every=every)).status_code == 200
        assert (await asked(1, "composite")).status_code == 200


async def test_fields_of_another_kind_of_base_are_named_before_what_is_missing(server: Rig) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "parameters": {"max_new_tokens": 4, "height": "x"}}
    error = error_of(await server.client.post("/generate", json=body), 400)
    assert error["message"] == f"parameters.max_new_tokens: {OF_TEXT}; messages: {OF_TEXT}"


async def test_ceilings_are_settings(tmp_path: Path) -> None:
    async with rig(tmp_path, PICTURES, max_inference_steps=3, max_images=2, max_image_side=72) as server:
        for parameters, limit in (
            ({"num_inference_steps": 4}, "at most 3, got 4"),
            ({"num_images": 3}, "at most 2 of 64×32 pixels, got 3"),
            ({"height": 80}, "from 8 to 72, got 80"),
        ):
            assert limit in error_of(await server.generate(parameters=parameters), 400)["message"]
        assert (await server.generate()).json()["usage"]["num_steps"] == 3


async def test_large_pictures_count_more(server: Rig) -> None:
    """They are held, encoded and sent together."""
    large = {"height": 128, "width": 128}
    error = error_of(await server.generate(parameters={**large, "num_images": 3}), 400)
    assert error["message"] == "parameters.num_images: at most 2 of 128×128 pixels, got 3"
    error = error_of(await server.generate(parameters={"num_images": 17, "height": 8}), 400)
    assert "at most 16 of 8×32 pixels" in error["message"]
    assert server.engine.requests == []


async def test_no_more_pictures_are_asked_for_than_may_wait(tmp_path: Path) -> None:
    async with rig(tmp_path, PICTURES, max_queue=3) as server:
        error = error_of(await server.generate(parameters={"num_images": 4}), 400)
        assert error["message"] == "parameters.num_images: at most 3 of 64×32 pixels, got 4"


async def test_previews_of_a_base_that_shows_none_are_refused(tmp_path: Path) -> None:
    async with rig(tmp_path, replace(PICTURES, can_preview=False)) as server:
        error = error_of(await server.generate(stream=True, parameters={"previews": 1}), 400)
        assert error["message"] == "parameters.previews: this base shows no picture before it is done"


async def test_what_means_nothing_to_the_base_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    async with rig(tmp_path, replace(PICTURES, takes_negative_prompt=False, takes_guidance_scale=False)) as server:
        for asked in ({"negative_prompt": ""}, {"guidance_scale": 0}):
            error = error_of(await server.generate(parameters=asked), 400)
            assert error["param"] == f"parameters.{next(iter(asked))}"
            assert error["message"] == f"{error['param']}: this base has none"


async def test_a_negative_prompt_that_no_step_would_hear_is_refused(tmp_path: Path) -> None:
    """It was ignored in silence."""
    bases = {
        "refused": replace(PICTURES, guidance_threshold=1.0, default_guidance_scale=1.0),
        "asked for": replace(PICTURES, guidance_threshold=1.0, default_guidance_scale=7.5),
        "of no matter": replace(PICTURES, guidance_threshold=None, default_guidance_scale=0.0),
    }
    taken = []
    for name, base in bases.items():
        async with rig(tmp_path / name, base) as server:
            for scale in (None, 0.0, 1.0, 1.1):
                guidance = {} if scale is None else {"guidance_scale": scale}
                assert (await server.generate(parameters=guidance)).status_code == 200
                answer = await server.generate(parameters={"negative_prompt": "frogs", **guidance})
                if answer.status_code == 200:
                    taken.append((name, scale))
                    continue
                error = error_of(answer, 400)
                assert error["param"] == "parameters.negative_prompt"
                got = base.default_guidance_scale if scale is None else scale
                assert error["message"].endswith(f"only with a guidance_scale above 1, got {got:g}")
    heard = [("refused", 1.1), ("asked for", None), ("asked for", 1.1)]
    assert taken == [*heard, *(("of no matter", scale) for scale in (None, 0.0, 1.0, 1.1))]


async def test_a_prompt_that_no_tokenizer_need_see_is_refused_before_it_does(tmp_path: Path) -> None:
    class NoPrompts(WordPrompts):
        def num_tokens(self, prompt: str) -> int:
            raise AssertionError("the tokenizer was asked")

    async with rig(tmp_path, PICTURES) as server:
        server.app.state.services = replace(server.services, prompts=NoPrompts())
        error_of(await server.generate(prompt="a" * 4097), 400)
        error_of(await server.generate(parameters={"height": 7}), 400)
