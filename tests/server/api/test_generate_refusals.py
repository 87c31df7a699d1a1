"""What a generation request may not be: refused with field and limit, and nothing reaches the engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.server.api.rig import Rig, error_of, rig
from tests.server.fakes import WordCodec

pytestmark = pytest.mark.anyio

PROMPT = {"prompt": "once upon"}
REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no prompt": ({}, "body", "exactly one of prompt and messages"),
    "both prompts": ({**PROMPT, "messages": [{"role": "user", "content": "x"}]}, "body", "exactly one"),
    "empty prompt": ({"prompt": ""}, "prompt", "at least 1 character"),
    "blank prompt": ({"prompt": "   "}, "prompt", "between 1 and 999 tokens, got 0"),
    "no messages": ({"messages": []}, "messages", "at least 1"),
    "unknown role": ({"messages": [{"role": "root", "content": "x"}]}, "messages.0.role", "'system'"),
    "unknown field": ({**PROMPT, "adaptor": "a"}, "adaptor", "not permitted"),
    "unknown parameter": ({**PROMPT, "parameters": {"topp": 1}}, "parameters.topp", "not permitted"),
    "image parameter": (
        {**PROMPT, "parameters": {"height": 64}},
        "parameters.height",
        "is for a base that draws pictures; this one writes text",
    ),
    "image option": ({**PROMPT, "fusion": {"every": 2}}, "fusion.every", "this one writes text"),
    "fusion step by step": (
        {**PROMPT, "fusion": {"method": "switch"}},
        "fusion.method",
        "denoising steps, and this base writes text, which has none",
    ),
    "text for a number": ({**PROMPT, "parameters": {"seed": "1"}}, "parameters.seed", "valid integer"),
    "true for a number": ({**PROMPT, "parameters": {"top_k": True}}, "parameters.top_k", "valid integer"),
    "zero tokens": (
        {**PROMPT, "parameters": {"max_new_tokens": 0}},
        "parameters.max_new_tokens",
        "greater than or equal to 1",
    ),
    "a billion tokens": (
        {**PROMPT, "parameters": {"max_new_tokens": 10**9}},
        "parameters.max_new_tokens",
        "at most 2048",
    ),
    "more tokens than any number holds": (
        {**PROMPT, "parameters": {"max_new_tokens": 10**100}},
        "parameters.max_new_tokens",
        "at most 2048",
    ),
    "no answers": ({**PROMPT, "parameters": {"n": 0}}, "parameters.n", "greater than or equal to 1"),
    "17 answers": ({**PROMPT, "parameters": {"n": 17}}, "parameters.n", "less than or equal to 16"),
    "21 log-probabilities": ({**PROMPT, "parameters": {"logprobs": 21}}, "parameters.logprobs", "equal to 20"),
    "true for log-probabilities": ({**PROMPT, "parameters": {"logprobs": True}}, "parameters.logprobs", "integer"),
    "too many tokens": (
        {**PROMPT, "parameters": {"max_new_tokens": 2049}},
        "parameters.max_new_tokens",
        "at most 2048",
    ),
    "past the context": ({**PROMPT, "parameters": {"max_new_tokens": 999}}, "parameters.max_new_tokens", "holds 1000"),
    "top_p 0": ({**PROMPT, "parameters": {"top_p": 0}}, "parameters.top_p", "greater than 0"),
    "top_p above 1": ({**PROMPT, "parameters": {"top_p": 1.01}}, "parameters.top_p", "less than or equal to 1"),
    "negative temperature": ({**PROMPT, "parameters": {"temperature": -1}}, "parameters.temperature", "equal to 0"),
    "penalty 0": (
        {**PROMPT, "parameters": {"repetition_penalty": 1e-45}},
        "parameters.repetition_penalty",
        "greater than or equal to 0.01",
    ),
    "empty stop": ({**PROMPT, "parameters": {"stop": ""}}, "parameters.stop", "at least 1"),
    "17 stops": ({**PROMPT, "parameters": {"stop": ["x"] * 17}}, "parameters.stop", "at most 16"),
    "deadline 0": ({**PROMPT, "deadline_ms": 0}, "deadline_ms", "greater than or equal to 1"),
    "deadline too long": ({**PROMPT, "deadline_ms": 600_001}, "deadline_ms", "at most 600000"),
    "unknown mode": ({**PROMPT, "mode": "mixed"}, "mode", "'auto' or 'fused'"),
    "unknown fusion": ({**PROMPT, "fusion": {"method": "dare"}}, "fusion.method", "'sum'"),
    "density for sum": ({**PROMPT, "fusion": {"density": 0.5}}, "fusion", "only for ties"),
    "density 0": ({**PROMPT, "fusion": {"method": "ties", "density": 0}}, "fusion.density", "greater than 0"),
    "33 adapters": ({**PROMPT, "adapter": [f"a{n}" for n in range(33)]}, "adapter", "at most 32"),
    "adapter of no form": ({**PROMPT, "adapter": 7}, "adapter", "a name, an object or a list"),
    "adapter without name": ({**PROMPT, "adapter": {"scale": 1}}, "adapter.name", "Field required"),
    "huge scale": ({**PROMPT, "adapter": {"name": "a", "scale": 1e30}}, "adapter.scale", "equal to 100"),
    "bad version": ({**PROMPT, "adapter": {"name": "a", "version": "latest"}}, "adapter.version", "sha256"),
}
BAD_NAMES = ["", ".", "..", "../etc", "a/b", "a\\b", "a\x00", "-a", "ａ", "a\u202e", "a\n", "a" * 129, "a b", "é"]


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One for all that must leave no trace in it; it still answers at the end."""
    async with rig(tmp_path_factory.mktemp("refusals")) as shared:
        await shared.push("a")
        yield shared
        assert (await shared.generate(adapter="a")).status_code == 200


@pytest.mark.parametrize("case", REFUSED)
async def test_a_body_past_a_limit_is_refused_naming_field_and_limit(case: str, server: Rig) -> None:
    body, param, words = REFUSED[case]
    error = error_of(await server.client.post("/generate", json=body), 400)
    assert error["code"] == "invalid_request"
    assert error["param"] == param
    assert words in error["message"]
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**PROMPT, "parameters": {"top_k": -1}}, "Input should be greater than or equal to 0, got -1"),
        ({**PROMPT, "parameters": {"top_k": True}}, "Input should be a valid integer, got true"),
        ({**PROMPT, "mode": "m\u00efxed"}, "Input should be 'auto' or 'fused', got \"m\\u00efxed\""),
        ({**PROMPT, "deadline_ms": "9" * 100}, 'Input should be a valid integer, got "' + "9" * 56 + "..."),
        ({**PROMPT, "fusion": "ties"}, 'expected an object, got "ties"'),
        ({**PROMPT, "fusion": ["ties"]}, "expected an object"),
        ({**PROMPT, "key": "secret"}, "Extra inputs are not permitted"),
        ({**PROMPT, "adapter": {"scale": 1}}, "Field required"),
    ],
    ids=lambda case: str(case)[:60],
)
async def test_a_refusal_shows_the_value_it_is_about(body: dict[str, Any], message: str, server: Rig) -> None:
    headers = {"content-type": "application/json"}
    response = await server.client.post("/generate", content=json.dumps(body), headers=headers)
    error = error_of(response, 400)
    assert error["message"] == f"{error['param']}: {message}"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e30"])
async def test_a_scale_that_is_no_finite_number_is_refused(number: str, server: Rig) -> None:
    content = f'{{"prompt": "x", "adapter": {{"name": "a", "scale": {number}}}}}'
    headers = {"content-type": "application/json"}
    error = error_of(await server.client.post("/generate", content=content, headers=headers), 400)
    assert error["param"] == "adapter.scale"
    assert server.engine.requests == []


@pytest.mark.parametrize("content", [b"[]", b"null", b'"x"'])
async def test_a_body_that_is_no_object_is_refused(content: bytes, server: Rig) -> None:
    headers = {"content-type": "application/json"}
    error_of(await server.client.post("/generate", content=content, headers=headers), 400)
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the body is empty: expected a JSON object"),
        (b"not json", "the body is not JSON: Expecting value at line 1 column 1"),
        (b'{"prompt":\n nope}', "the body is not JSON: Expecting value at line 2 column 2"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        (b'{"prompt": "\xff"}', "the body is not JSON: 'utf-8' codec can't decode byte 0xff in position 12"),
        (b"[" * 100_000, "the body is not JSON: it is nested too deeply"),
        (b'{"prompt":' + b"9" * 5000 + b"}", "the body is not JSON: Exceeds the limit (4300 digits)"),
    ],
    ids=lambda text: repr(text[:12]),
)
async def test_a_body_that_is_no_json_is_refused_saying_where(content: bytes, message: str, server: Rig) -> None:
    headers = {"content-type": "application/json"}
    for method, path in (("POST", "/generate"), ("PATCH", "/adapters/a")):
        error = error_of(await server.client.request(method, path, content=content, headers=headers), 400)
        assert error["message"].startswith(message)
        assert error["param"] is None
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("method", "path", "content", "key"),
    [
        ("POST", "/generate", b'{"prompt": "x", "n": 1, "n": 2}', "n"),
        ("POST", "/generate", b'{"prompt": "x", "prompt": "x"}', "prompt"),
        ("POST", "/generate", b'{"prompt": "x", "adapter": [{"name": "a", "scale": 1, "scale": 2}]}', "scale"),
        ("POST", "/generate", b'{"prompt": "x", "mode": "auto", "\\u006dode": "fused"}', "mode"),
        ("PATCH", "/adapters/a", b'{"pinned": true, "pinned": false}', "pinned"),
    ],
)
async def test_a_key_given_twice_is_refused_by_name(
    method: str, path: str, content: bytes, key: str, server: Rig
) -> None:
    """The last one won, in silence, where a proxy in front may have looked at the first."""
    headers = {"content-type": "application/json"}
    error = error_of(await server.client.request(method, path, content=content, headers=headers), 400)
    assert (error["code"], error["param"]) == ("invalid_request", key)
    assert f"got '{key}' twice" in error["message"]
    assert server.engine.requests == []


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
async def test_another_content_type_is_refused(content_type: str | None, server: Rig) -> None:
    headers = {"content-type": content_type} if content_type else {}
    error = error_of(await server.client.post("/generate", content=b'{"prompt": "x"}', headers=headers), 415)
    assert "application/json" in error["message"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_no_adapter_can_have_is_refused(name: str, server: Rig) -> None:
    for adapter in (name, [name], {"name": name}):
        error_of(await server.generate(adapter=adapter), 400)


async def test_an_unknown_adapter_or_version_is_not_found(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        error = error_of(await server.generate(adapter="nobody"), 404)
        assert (error["code"], "nobody" in error["message"]) == ("adapter_not_found", True)
        assert error["param"] == "adapter"
        await server.push("a")
        missing = {"name": "a", "version": "sha256:" + "00" * 32}
        assert error_of(await server.generate(adapter=missing), 404)["code"] == "adapter_not_found"


async def test_the_same_version_twice_in_one_blend_is_refused_under_any_names(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        await server.push("also-a")
        for adapter in (["a", "a"], ["a", "also-a"]):
            error = error_of(await server.generate(adapter=adapter), 400)
            assert (error["code"], "twice" in error["message"]) == ("blend_rejected", True)
            assert error["param"] == "adapter"


async def test_a_prompt_past_the_limit_is_refused_with_the_limit(tmp_path: Path) -> None:
    async with rig(tmp_path, max_prompt_tokens=5) as server:
        assert (await server.generate(prompt="a b c d e")).status_code == 200
        error = error_of(await server.generate(prompt="a b c d e f"), 400)
        assert error == {
            "type": "invalid_request_error",
            "code": "invalid_request",
            "message": "prompt: between 1 and 5 tokens, got 6",
            "param": "prompt",
        }


async def test_a_prompt_that_no_tokenizer_need_see_is_refused_with_the_limit_before_it_does(tmp_path: Path) -> None:
    """A million characters took the tokenizer a second, in which it served nobody else."""
    async with rig(tmp_path, max_prompt_tokens=5) as server:

        class NoCodec(WordCodec):
            def encode(self, prompt: str) -> tuple[int, ...]:
                raise AssertionError("the tokenizer was asked")

        assert (await server.generate(prompt="a" * 160)).status_code == 200
        server.app.state.services = replace(server.services, codec=NoCodec())
        error = error_of(await server.generate(prompt="a" * 161), 400)
        assert error["message"] == "prompt: at most 160 characters (32 for each of 5 tokens), got 161"
        messages = [{"role": "user", "content": "a" * 80}, {"role": "user", "content": "a" * 81}]
        error = error_of(await server.client.post("/generate", json={"messages": messages}), 400)
        assert (error["param"], "at most 160 characters" in error["message"]) == ("messages", True)


async def test_more_answers_than_may_wait_are_refused_with_the_limit(tmp_path: Path) -> None:
    async with rig(tmp_path, max_queue=3) as server:
        assert (await server.generate(parameters={"n": 3})).status_code == 200
        error = error_of(await server.generate(parameters={"n": 4}), 400)
        assert (error["param"], error["message"]) == ("parameters.n", "parameters.n: at most 3, got 4")


async def test_a_refused_request_holds_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, max_prompt_tokens=5) as server:
        await server.push("a")
        error_of(await server.generate(adapter="a", prompt="a b c d e f"), 400)
        error_of(await server.generate(adapter=["a", "nobody"]), 404)
        assert server.store.describe()["claims"] == {}
