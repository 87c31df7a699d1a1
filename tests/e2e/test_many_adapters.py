"""Many adapters at once through HTTP: every request gets what it gets alone, and memory need not hold all."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from loadtest.live_server import LiveServer, checked
from tests.e2e.real_adapters import random_adapter
from tests.e2e.tiny_server import footprint, nothing_leaks, state, tiny_server

MIB = 1024**2
HOST_BUDGET_BYTES = 2 * MIB
DEVICE_BUDGET_BYTES = 4 * MIB
NUM_MANY = 500
FEW = [f"few-{number}" for number in range(6)]
PROMPTS = ["the quick brown fox", "in the beginning", "a rose is a rose is a rose " * 12, "over the lazy dog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    server: LiveServer
    checkpoint: Path
    versions: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Blends run beside each other wherever they can, and host memory holds a small part of all adapters."""
    directory = tmp_path_factory.mktemp("many")
    options = ["--schedule", "mixed", "--kv-budget-bytes", "4MiB", "--host-budget-bytes", str(HOST_BUDGET_BYTES)]
    options += ["--device-budget-bytes", str(DEVICE_BUDGET_BYTES)]
    with tiny_server(directory, *options) as server:
        base = describe_checkpoint(directory / "tiny")
        versions = {}
        for seed, name in enumerate(FEW):
            path = directory / f"{name}.safetensors"
            write_adapter(random_adapter(base, seed=seed, strength=0.3, sparsity=0.1), path)
            versions[name] = server.push(name, path)["version"]
        yield World(server=server, checkpoint=directory / "tiny", versions=versions)


def ask(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    return checked(server.client.post("/generate", json=body))


def ask_at_once(server: LiveServer, bodies: Sequence[dict[str, Any]]) -> list[httpx.Response]:
    return post_at_once(server, "/generate", [{"json": body} for body in bodies])


def post_at_once(
    server: LiveServer, path: str, contents: Sequence[dict[str, Any]], *, num_connections: int | None = None
) -> list[httpx.Response]:
    """The answers in the order of the contents."""

    async def gather() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=num_connections)
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*[client.post(path, **content) for content in contents])

    return asyncio.run(gather())


def greedy(adapter: Any, prompt: str, *, num_tokens: int = 24, **more: Any) -> dict[str, Any]:
    parameters = {"max_new_tokens": num_tokens, "ignore_eos": True, "logprobs": 0}
    return {"prompt": prompt, "adapter": adapter, "parameters": parameters, **more}


def applied(name: str, version: str, scale: float = 1.0) -> dict[str, Any]:
    return {"name": name, "version": version, "scale": scale}


def tokens(logprobs: list[dict[str, Any]]) -> list[int]:
    return [told["drawn"]["token"] for told in logprobs]


@pytest.mark.slow
def test_mixed_traffic_gives_every_request_the_tokens_it_gets_alone(world: World) -> None:
    pair = [{"name": FEW[0], "scale": 0.7}, {"name": FEW[1], "scale": -0.5}]
    other = [FEW[2], {"name": FEW[3], "scale": 2.0}]
    blends: list[Any] = [[], *FEW, pair, other]
    bodies = [greedy(blend, prompt) for prompt in PROMPTS for blend in blends]
    bodies += [greedy(blend, PROMPTS[0], mode="fused") for blend in ([], FEW[0], FEW[5], pair)]
    with nothing_leaks(world.server):
        alone = [ask(world.server, body) for body in bodies]
        together = [checked(answer) for answer in ask_at_once(world.server, bodies)]
    for body, before, after in zip(bodies, alone, together, strict=True):
        assert tokens(after["logprobs"]) == tokens(before["logprobs"])
        receipt = after["receipt"]
        assert receipt["blend_key"] == before["receipt"]["blend_key"]
        asked = body["adapter"] if isinstance(body["adapter"], list) else [body["adapter"]]
        named = [(one, 1.0) if isinstance(one, str) else (one["name"], one["scale"]) for one in asked]
        assert receipt["adapters"] == [applied(name, world.versions[name], scale) for name, scale in named]
        assert body.get("mode") != "fused" or receipt["mode"] == "fused"
    assert len({tuple(tokens(answer["logprobs"])) for answer in alone[: len(blends)]}) == len(blends)
    assert Counter(answer["receipt"]["mode"] for answer in together)["mixed"] > len(bodies) // 2


@pytest.mark.slow
def test_several_answers_are_those_of_single_requests_with_the_seeds_that_follow(world: World) -> None:
    parameters = {"max_new_tokens": 16, "ignore_eos": True, "temperature": 1.0, "logprobs": 0}
    body = {"prompt": PROMPTS[0], "adapter": FEW[0], "parameters": parameters}
    with nothing_leaks(world.server):
        several = ask(world.server, {**body, "parameters": {**parameters, "n": 4, "seed": 11}})
        single = [ask(world.server, {**body, "parameters": {**parameters, "seed": 11 + place}}) for place in range(4)]
    assert [choice["text"] for choice in several["choices"]] == [answer["text"] for answer in single]
    assert [tokens(choice["logprobs"]) for choice in several["choices"]] == [tokens(one["logprobs"]) for one in single]
    assert len({choice["text"] for choice in several["choices"]}) == 4
    assert several["usage"] == {"prompt_tokens": single[0]["usage"]["prompt_tokens"], "completion_tokens": 64}


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_model(world: World) -> None:
    """Against a plain forward of transformers over prompt and answer."""
    model = AutoModelForCausalLM.from_pretrained(world.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(world.checkpoint)
    parameters = {"max_new_tokens": 12, "ignore_eos": True, "temperature": 0.7, "seed": 5, "logprobs": 5}
    answer = ask(world.server, {"prompt": PROMPTS[1], "parameters": parameters})
    prompt = tokenizer(PROMPTS[1]).input_ids
    drawn = tokens(answer["logprobs"])
    assert len(drawn) == 12
    with torch.no_grad():
        logits = model(torch.tensor([prompt + drawn])).logits[0]  # (tokens, vocabulary)
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    for row, token, told in zip(expected, drawn, answer["logprobs"], strict=True):
        assert told["drawn"]["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(5)
        assert [likely["token"] for likely in told["top"]] == best.indices.tolist()
        assert [likely["logprob"] for likely in told["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert sum(math.exp(likely["logprob"]) for likely in told["top"]) <= 1 + 1e-6


@pytest.mark.slow
def test_five_hundred_adapters_asked_at_once_are_all_served_or_told_when_to_come_back(
    world: World, tmp_path: Path
) -> None:
    server = world.server
    base = describe_checkpoint(world.checkpoint)
    uploads = []
    for number in range(NUM_MANY):
        path = tmp_path / "adapter.safetensors"
        write_adapter(random_adapter(base, seed=1000 + number, sparsity=0.3), path)
        uploads.append({"data": {"name": f"many-{number}"}, "files": {"file": path.read_bytes()}})
    versions = [checked(answer)["version"] for answer in post_at_once(server, "/adapters", uploads, num_connections=4)]
    store = state(server)["store"]
    assert store["disk"]["num_bytes"] > 2 * HOST_BUDGET_BYTES

    def storm() -> None:
        unserved, num_rounds = list(range(NUM_MANY)), 0
        while unserved:
            num_rounds += 1
            assert num_rounds <= 5
            asked, unserved = unserved, []
            answers = ask_at_once(server, [greedy(f"many-{number}", PROMPTS[0], num_tokens=4) for number in asked])
            for number, answer in zip(asked, answers, strict=True):
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    unserved.append(number)
                    continue
                assert checked(answer)["receipt"]["adapters"] == [applied(f"many-{number}", versions[number])]
            now = state(server)
            assert now["store"]["host"]["num_bytes"] <= HOST_BUDGET_BYTES
            assert now["engine"]["execution"]["num_bytes"] <= DEVICE_BUDGET_BYTES

    with nothing_leaks(server):
        storm()
        after_one = footprint(server)  # pools, buffers and caches have the size they need
        storm()
    assert footprint(server).rss_bytes - after_one.rss_bytes < 32 * MIB
