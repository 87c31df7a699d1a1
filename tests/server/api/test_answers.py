"""Several answers of one prompt, and the log-probabilities of their tokens."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from server.core.errors import DeadlineExceeded
from server.core.requests import LikelyToken, TokenLogprob
from server.engine.messages import FailEvent, TextEvent
from tests.server.api.rig import error_of, rig, sse_events

pytestmark = pytest.mark.anyio


def drawn(views: list[dict[str, Any]]) -> list[str]:
    return [view["drawn"]["text"] for view in views]


async def test_one_answer_has_no_choices_and_no_log_probabilities_unless_asked(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        answer = (await server.generate()).json()
        assert answer.keys() == {"id", "text", "finish_reason", "usage", "receipt"}
        assert (await server.generate(parameters={"n": 1, "logprobs": None})).json().keys() == answer.keys()


async def test_several_answers_are_choices_beside_the_first_and_count_the_prompt_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        version = (await server.push("pirate")).json()["version"]
        answer = (await server.generate(adapter="pirate", parameters={"n": 3})).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        for choice in answer["choices"]:
            assert choice.keys() == {"index", "text", "finish_reason", "receipt"}
            assert (choice["text"], choice["finish_reason"]) == ("Hello world", "length")
            assert choice["receipt"]["adapters"] == [{"name": "pirate", "version": version, "scale": 1.0}]
        first = answer["choices"][0]
        assert all(answer[field] == first[field] for field in ("text", "finish_reason", "receipt"))
        assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 6}


async def test_every_answer_is_a_request_of_its_own_with_its_own_seed(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.generate(parameters={"n": 3, "seed": 2**63 - 2, "temperature": 0.5})
        assert [asked.sampling.seed for asked in server.engine.texts] == [2**63 - 2, 2**63 - 1, 0]
        assert len({asked.id for asked in server.engine.requests}) == 3
        assert len({asked.prompt_tokens for asked in server.engine.texts}) == 1
        await server.generate(parameters={"n": 2})
        assert [asked.sampling.seed for asked in server.engine.texts[3:]] == [None, None]


async def test_log_probabilities_tell_each_drawn_token_and_the_likeliest_in_its_place(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        for wished in (0, 2):
            answer = (await server.generate(parameters={"logprobs": wished})).json()
            assert server.engine.texts[-1].sampling.num_logprobs == wished
            assert drawn(answer["logprobs"]) == ["Hello", " world", "<end>"]
            first = answer["logprobs"][0]
            assert first["drawn"] == {"token": 5, "text": "Hello", "logprob": -0.5}
            assert [likely["logprob"] for likely in first["top"]] == [-1.0, -2.0][:wished]
        answer = (await server.generate(parameters={"n": 2, "logprobs": 1})).json()
        assert "logprobs" not in answer
        assert [drawn(choice["logprobs"]) for choice in answer["choices"]] == [["Hello", " world", "<end>"]] * 2


async def test_a_figure_that_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    told = TokenLogprob(
        drawn=LikelyToken(token=1, text="x", logprob=math.nan),
        top=(LikelyToken(token=2, text="y", logprob=-math.inf),),
    )
    expected = {"drawn": {"token": 1, "text": "x"}, "top": [{"token": 2, "text": "y"}]}
    async with rig(tmp_path) as server:
        server.engine.script = [TextEvent(text="x", logprobs=(told,))]
        server.engine.tells_logprobs = False
        whole = await server.generate(parameters={"logprobs": 1})
        stream = await server.generate(parameters={"logprobs": 1}, stream=True)
        assert whole.json()["logprobs"] == [expected]
        assert sse_events(stream.text)[0] == {"logprobs": [expected], "text": "x"}
        for text in (whole.text, stream.text):
            assert "NaN" not in text
            assert "Infinity" not in text


async def test_a_stream_of_one_answer_tells_log_probabilities_with_the_text_they_belong_to(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        *texts, last, done = sse_events((await server.generate(parameters={"logprobs": 0}, stream=True)).text)
        assert [drawn(event["logprobs"]) for event in (*texts, last)] == [["Hello"], [" world"], ["<end>"]]
        assert all("index" not in event for event in (*texts, last))
        assert done == "[DONE]"


async def test_a_stream_of_several_answers_says_whose_each_event_is_and_is_done_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        *events, done = sse_events((await server.generate(parameters={"n": 2}, stream=True)).text)
        assert done == "[DONE]"
        assert "[DONE]" not in events
        for index in (0, 1):
            *texts, last = [event for event in events if event["index"] == index]
            assert texts == [{"index": index, "text": "Hello"}, {"index": index, "text": " world"}]
            assert (last["text"], last["finish_reason"], last["receipt"]["mode"]) == ("", "length", "fused")
        ends = [event["usage"] for event in events if "usage" in event]
        assert ends == [{"prompt_tokens": 4, "completion_tokens": tokens} for tokens in (2, 4)]
        assert server.count("requests", "/generate", "ok") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_one_answer_that_fails_ends_them_all(*, tmp_path: Path, stream: bool) -> None:
    async with rig(tmp_path) as server:
        server.engine.script = [TextEvent(text="x"), FailEvent(error=DeadlineExceeded(deadline_ms=5))]
        response = await server.generate(parameters={"n": 3}, stream=stream)
        error = sse_events(response.text)[-1]["error"] if stream else error_of(response, 504)
        assert error["code"] == "deadline_exceeded"
        assert server.engine.aborted == [asked.id for asked in server.engine.requests]


async def test_a_client_that_goes_away_aborts_all_its_answers(tmp_path: Path) -> None:
    async with rig(tmp_path) as server:
        await server.push("a")
        server.engine.script = [TextEvent(text="x"), asyncio.Event()]
        gone = asyncio.Event()
        body = json.dumps({"prompt": "x", "adapter": "a", "parameters": {"n": 4}}).encode()
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_: object) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/generate", "query_string": b"", "http_version": "1.1"}
        headers = {"headers": [(b"content-type", b"application/json")]}
        asking = asyncio.create_task(server.app(scope | headers, receive, send))
        await server.engine.waits.get()
        gone.set()
        await asking
        assert len(server.engine.aborted) == 4
        assert server.store.describe()["claims"] == {}
