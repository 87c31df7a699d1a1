from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store.errors import AdapterUnavailable
from server.core.errors import DeadlineExceeded, DeadlineUnreachable, Draining, QueueFull, SwitchFailed
from server.core.keys import hash_secret
from server.engine.messages import FailEvent, TextEvent
from tests.server.api.rig import error_of, rig, sse_events
from tests.server.fakes import WordCodec

pytestmark = pytest.mark.anyio


async def test_the_base_answers_with_a_receipt_when_no_adapter_is_named(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        forms: tuple[dict[str, Any], ...] = ({}, {"adapter": None}, {"adapter": []})
        for absent in forms:
            answer = (await server.generate(**absent)).json()
            assert (answer["text"], answer["finish_reason"]) == ("Hello world", "length")
            assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 2}
            assert answer["receipt"]["adapters"] == []
            assert answer["id"] == server.engine.requests[-1].id


async def test_every_form_of_the_adapter_field_means_the_same_blend(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        version = (await server.push("pirate")).json()["version"]
        forms = ["pirate", ["pirate"], {"name": "pirate"}, [{"name": "pirate", "scale": 1, "version": version}]]
        receipts = [(await server.generate(adapter=form)).json()["receipt"] for form in forms]
        assert {receipt["blend_key"] for receipt in receipts} == {receipts[0]["blend_key"]}
        assert receipts[0]["adapters"] == [{"name": "pirate", "version": version, "scale": 1.0}]


async def test_the_receipt_names_adapters_in_the_order_asked_while_the_blend_has_none(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a", values=1)
        await server.push("b", values=2)
        there = (await server.generate(adapter=["a", "b"])).json()["receipt"]
        back = (await server.generate(adapter=["b", "a"])).json()["receipt"]
        assert [one["name"] for one in there["adapters"]] == ["a", "b"]
        assert [one["name"] for one in back["adapters"]] == ["b", "a"]
        assert there["blend_key"] == back["blend_key"]


async def test_a_request_keeps_the_version_it_was_admitted_with(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        first = (await server.push("pirate", values=1)).json()["version"]
        go_on = asyncio.Event()
        server.engine.script = [go_on]
        running = asyncio.create_task(server.generate(adapter="pirate"))
        await server.engine.waits.get()
        await server.push("pirate", values=2)
        go_on.set()
        assert (await running).json()["receipt"]["adapters"][0]["version"] == first


async def test_what_was_asked_reaches_the_engine(tmp_path: Path) -> None:
    parameters = {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 3,
        "stop": "END",
        "repetition_penalty": 1.1,
        "ignore_eos": True,
    }
    async with rig(tmp_path) as server:
        await server.generate(
            parameters=parameters, mode="fused", deadline_ms=1500, fusion={"method": "ties", "density": 0.5}
        )
        asked = server.engine.texts[0]
        assert (asked.max_new_tokens, asked.stop, asked.ignore_eos, asked.mode) == (7, ("END",), True, "fused")
        drawn = asked.sampling
        assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.seed, drawn.repetition_penalty) == (
            0.5,
            0.9,
            40,
            3,
            1.1,
        )
        assert asked.deadline_s == pytest.approx(asked.arrived_s + 1.5)
        assert (asked.blend.fusion.method, asked.blend.fusion.density, asked.tenant) == ("ties", 0.5, "default")


async def test_a_request_is_its_keys_client_with_its_keys_weight(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[keys]]\nsha256 = "{hash_secret("heavy").hex()}"\nrole = "generate"\nweight = 4\n')
    async with rig(tmp_path / "keys", api_keys="a:generate,b:generate", api_keys_file=str(keys)) as server:
        for secret in ("a", "b", "a", "heavy"):
            body = {"prompt": "x"}
            headers = {"Authorization": f"Bearer {secret}"}
            assert (await server.client.post("/generate", json=body, headers=headers)).status_code == 200
        a, b, again, heavy = server.engine.requests
        assert (a.client, a.weight) == (again.client, again.weight)
        assert len({a.client, b.client, heavy.client}) == 3
        assert (a.weight, b.weight, heavy.weight) == (1.0, 1.0, 4.0)
    async with rig(tmp_path / "open") as server:
        await server.generate()
        assert (server.engine.requests[0].client, server.engine.requests[0].weight) == ("anonymous", 1.0)


async def test_messages_go_through_the_chat_template(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        body = {"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "sixsix"}]}
        assert (await server.client.post("/generate", json=body)).status_code == 200
        assert server.engine.texts[0].prompt_tokens == (4, 6)


async def test_a_stream_is_text_events_then_the_end_with_its_receipt_then_done(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        response = await server.generate(stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        *texts, last, done = sse_events(response.text)
        assert texts == [{"text": "Hello"}, {"text": " world"}]
        assert (last["text"], last["finish_reason"], done) == ("", "length", "[DONE]")
        assert last["receipt"]["mode"] == "fused"
        assert last["usage"]["completion_tokens"] == 2
        assert server.count("requests", "/generate", "ok") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (QueueFull(limit=8, retry_after_s=3), 429, "queue_full", "3"),
        (DeadlineUnreachable(deadline_ms=5, needed_ms=9, retry_after_s=2), 429, "deadline_unreachable", "2"),
        (Draining("stopping"), 503, "draining", "5"),
        (SwitchFailed("the base was restored"), 500, "switch_failed", None),
        (DeadlineExceeded(deadline_ms=5), 504, "deadline_exceeded", None),
        (AdapterUnavailable("sha256:00", reason="gone"), 503, "adapter_unavailable", "5"),
    ],
)
@pytest.mark.parametrize("raised", [False, True])
async def test_an_error_before_the_first_text_has_its_own_status(
    *, tmp_path: Path, error: Exception, status: int, code: str, retry_after: str | None, stream: bool, raised: bool
) -> None:
    async with rig(tmp_path) as server:
        server.engine.script = [error if raised else FailEvent(error=error)]
        response = await server.generate(stream=stream)
        assert error_of(response, status)["code"] == code
        assert response.headers.get("retry-after") == retry_after
        assert server.count("requests", "/generate", code) == 1


async def test_an_error_in_the_middle_of_a_stream_is_its_last_event(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        server.engine.script = [TextEvent(text="He"), FailEvent(error=DeadlineExceeded(deadline_ms=5))]
        text, error = sse_events((await server.generate(stream=True)).text)
        assert text == {"text": "He"}
        assert error["error"]["code"] == "deadline_exceeded"
        assert server.count("requests", "/generate", "deadline_exceeded") == 1


async def test_an_unexpected_error_tells_the_log_everything_and_the_client_nothing_of_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path) as server:
        for events in ([], [TextEvent(text="x")]):
            server.engine.script = [*events, KeyError("secret")]
            response = await server.generate(stream=bool(events))
            assert "secret" not in response.text
            assert "internal_error" in response.text
        assert "KeyError: 'secret'" in caplog.text
        server.engine.script = None
        assert (await server.generate()).status_code == 200


async def test_the_gateway_gauge_names_adapters_that_wait_and_that_run(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a", values=1)
        started, ends = asyncio.Event(), asyncio.Event()
        server.engine.script = [started, TextEvent(text="x"), ends]

        async def gauge() -> str:
            text = (await server.client.get("/metrics")).text
            return next(line for line in text.splitlines() if line.startswith("shira_lora_requests_info{"))

        running = asyncio.create_task(server.generate(adapter="a"))
        await server.engine.waits.get()
        assert 'running_lora_adapters="",waiting_lora_adapters="a"' in await gauge()
        started.set()
        await server.engine.waits.get()
        assert 'running_lora_adapters="a",waiting_lora_adapters=""' in await gauge()
        ends.set()
        await running
        assert 'running_lora_adapters="",waiting_lora_adapters=""' in await gauge()


async def test_long_prompts_keep_no_other_request_from_being_looked_up(tmp_path: Path) -> None:
    """Those that waited for the tokenizer took every thread there was for look-ups."""
    async with rig(tmp_path) as server:
        await server.push("a")
        go_on = threading.Event()

        class SlowCodec(WordCodec):
            def encode(self, prompt: str) -> tuple[int, ...]:
                assert go_on.wait(10)
                return super().encode(prompt)

        server.app.state.services = replace(server.services, codec=SlowCodec())
        try:
            asked = [asyncio.create_task(server.generate(adapter="a")) for _ in range(20)]
            async with asyncio.timeout(5):
                while sum(server.store.describe()["claims"].values()) < len(asked):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                assert (await server.client.get("/adapters/a")).status_code == 200
        finally:
            go_on.set()
        assert {(await task).status_code for task in asked} == {200}
