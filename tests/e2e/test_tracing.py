"""Traces as a collector gets them from a real server, by OTLP over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from loadtest.live_server import LiveServer, checked, wait_until
from server.bench_serve.random_adapters import sparse_adapter
from server.core.otlp import CLOSE_S, SERVICE
from tests.e2e.collector import SERVER_KIND, Collector, Span, collector
from tests.e2e.picture_world import PictureWorld, picture_world
from tests.e2e.tiny_server import tiny_server
from tests.server.api.rig import error_of, sse_events

SECRET = "xylophone quokka"  # never leaves the server, but as tokens to the model
LONG = 2000
ROUNDING_MS = 0.01
HTTP_MS = 20.0  # before a request is looked at: its head is read, its key checked, its body parsed

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    server: LiveServer
    collector: Collector

    def ask(self, adapter: Any = (), **fields: Any) -> httpx.Response:
        parameters = {"max_new_tokens": fields.pop("num_tokens", 12), "ignore_eos": True}
        headers = fields.pop("headers", {})
        body = {"prompt": SECRET, "adapter": adapter or [], "parameters": parameters, **fields}
        return self.server.client.post("/generate", json=body, headers=headers)

    def trace_of(self, answer: httpx.Response) -> Span:
        """The whole of it, once it has come."""
        trace_id = answer.headers["traceresponse"].split("-")[1]
        wait_until(lambda: any(root.trace_id == trace_id for root in self.collector.roots()))
        return self.collector.trace(trace_id)

    def span(self, trace_id: str, span_id: str) -> Span:
        [found] = [span for root in self.collector.roots() for span in root if span.id == span_id]
        assert found.trace_id == trace_id
        return found


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    directory = tmp_path_factory.mktemp("traced")
    with collector() as (own, url), tiny_server(directory, "--otlp-endpoint", url) as server:
        for seed, name in enumerate(("a", "b", "c")):
            server.push(name, random_adapter(directory, name, seed))
        yield Traced(server=server, collector=own)
        assert SECRET.encode() not in own.raw
        assert "Traceback" not in server.log_path.read_text()


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PictureWorld, Collector]]:
    with (
        collector() as (own, url),
        picture_world(tmp_path_factory.mktemp("drawing"), "sd", "--otlp-endpoint", url) as world,
    ):
        yield world, own
        assert SECRET.encode() not in own.raw


def random_adapter(directory: Path, name: str, seed: int) -> Path:
    base = describe_checkpoint(directory / "tiny")
    path = directory / f"{name}.safetensors"
    write_adapter(sparse_adapter(base, sparsity=0.1, seed=seed, is_target=lambda _: True, delta_scale=0.1), path)
    return path


def assert_nests(span: Span) -> None:
    """Children lie in their parents, one after the other: nothing here does two things at a time."""
    for child in span.children:
        assert span.started_ns <= child.started_ns <= child.ended_ns <= span.ended_ns, (span.name, child.name)
        assert_nests(child)
    for child, after in pairwise(span.children):
        assert child.ended_ns <= after.started_ns, (child.name, after.name)


def ms_between(start: int, end: int) -> float:
    return (end - start) / 1e6


def test_a_request_with_a_switch_is_a_tree_of_its_phases_that_agrees_with_its_receipt(traced: Traced) -> None:
    answer = traced.ask("a")
    receipt = checked(answer)["receipt"]
    root = traced.trace_of(answer)
    assert (root.name, root.kind, root.is_error) == ("POST /generate", SERVER_KIND, False)
    assert root.names() == ["admission", "queue", "prefill", "decode", "delivery"]
    assert root.child("queue").names() == ["load", "switch"]
    assert_nests(root)
    first, *_, last = root.children
    assert (first.started_ns, last.ended_ns) == pytest.approx((root.started_ns, root.ended_ns), abs=1_000_000)
    for child, after in pairwise(root.children):
        assert ms_between(child.ended_ns, after.started_ns) < ROUNDING_MS
    arrived_ns = root.child("decode").ended_ns - receipt["total_ms"] * 1e6
    assert 0 <= ms_between(root.started_ns, int(arrived_ns)) < HTTP_MS
    queue_ms = ms_between(int(arrived_ns), root.child("queue").ended_ns)
    assert queue_ms == pytest.approx(receipt["queue_ms"], abs=ROUNDING_MS)
    assert root.child("queue").child("switch").ms == pytest.approx(receipt["switch_ms"], abs=ROUNDING_MS)


def test_its_attributes_say_what_ran_in_the_words_of_the_conventions(traced: Traced) -> None:
    answer = traced.ask("a", num_tokens=9)
    whole = checked(answer)
    told = traced.trace_of(answer).attributes
    assert told["http.request.method"] == "POST"
    assert (told["http.route"], told["http.response.status_code"]) == ("/generate", 200)
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == "tiny"
    assert told["gen_ai.usage.input_tokens"] == whole["usage"]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == 9
    assert told["gen_ai.response.id"] == whole["id"]
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["shira.blend.key"] == whole["receipt"]["blend_key"]
    assert told["shira.adapter.versions"] == [whole["receipt"]["adapters"][0]["version"]]
    assert (told["shira.mode"], told["shira.outcome"]) == ("fused", "ok")
    decode = traced.trace_of(answer).child("decode").attributes
    assert decode == {"shira.steps": 8, "shira.tokens": 8}


def test_the_work_of_a_switch_and_of_a_load_is_a_trace_of_its_own_linked_both_ways(traced: Traced) -> None:
    root = traced.trace_of(traced.ask("b"))
    load, switch = root.child("queue").children
    for wait, parts in ((load, ["fetch"]), (switch, ["restore", "stage", "exchange"])):
        [link] = wait.links
        work = traced.span(*link)
        assert (work.parent_id, work.name) == ("", wait.name)
        assert [name for name in parts if name in work.names()] == work.names()
        assert_nests(work)
        assert (root.trace_id, root.id) in work.links
        for part in work.children:
            assert wait.attributes[f"shira.{part.name}_ms"] == pytest.approx(part.ms, abs=ROUNDING_MS)
    assert traced.span(*load.links[0]).child("fetch").attributes == {"shira.tier": "disk"}


def test_a_switch_for_several_requests_is_told_once(traced: Traced) -> None:
    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=traced.server.client.base_url, timeout=60) as client:
            parameters = {"max_new_tokens": 300, "ignore_eos": True}
            return client.post("/generate", json={"prompt": SECRET, "adapter": "c", "parameters": parameters})

    with ThreadPoolExecutor(4) as clients:
        roots = [traced.trace_of(answer) for answer in list(clients.map(ask, range(4)))]
    links = [link for root in roots for span in root if span.name == "switch" for link in span.links]
    assert links, "the first of them had to switch"
    works = [span for span in traced.collector.roots() if (span.trace_id, span.id) in links]
    assert len(works) == len(set(links))
    served = [link for work in works for link in work.links]
    assert sorted(served) == sorted((root.trace_id, root.id) for root in roots for s in root if s.name == "switch")


def test_a_streamed_request_has_the_same_phases_and_is_delivered_when_its_stream_ends(traced: Traced) -> None:
    answer = traced.ask("a", stream=True)
    *_, last, end = sse_events(answer.text)
    assert end == "[DONE]"
    root = traced.trace_of(answer)
    assert root.names() == ["admission", "queue", "prefill", "decode", "delivery"]
    assert_nests(root)
    assert root.attributes["shira.total_ms"] == pytest.approx(last["receipt"]["total_ms"])


def test_several_answers_to_one_prompt_are_phases_side_by_side(traced: Traced) -> None:
    answer = checked_answer(traced.server.client, {"max_new_tokens": 4, "n": 3})
    root = traced.trace_of(answer)
    assert [root.names().count(name) for name in ("admission", "queue", "decode", "delivery")] == [1, 3, 3, 1]
    assert root.attributes["gen_ai.usage.output_tokens"] == answer.json()["usage"]["completion_tokens"]


def checked_answer(client: httpx.Client, parameters: dict[str, Any]) -> httpx.Response:
    answer = client.post("/generate", json={"prompt": SECRET, "parameters": {"ignore_eos": True, **parameters}})
    checked(answer)
    return answer


def test_a_refused_request_says_why_and_is_no_error_of_ours(traced: Traced) -> None:
    answer = traced.ask("nobody")
    assert error_of(answer, 404)["code"] == "adapter_not_found"
    root = traced.trace_of(answer)
    assert root.attributes["shira.outcome"] == root.attributes["error.type"] == "adapter_not_found"
    assert root.attributes["http.response.status_code"] == 404
    assert not root.is_error


def test_a_request_that_ends_at_its_deadline_says_where_it_was_then(traced: Traced) -> None:
    answer = traced.ask(num_tokens=LONG, deadline_ms=150)
    assert error_of(answer, 504)["code"] == "deadline_exceeded"
    root = traced.trace_of(answer)
    wait_until(lambda: traced.collector.trace(root.trace_id).names()[-1:] == ["decode"])
    root = traced.collector.trace(root.trace_id)
    assert root.is_error
    assert root.child("decode").attributes["error.type"] in ("DeadlineExceeded", "Aborted")


def test_an_aborted_stream_says_how_far_it_came(traced: Traced) -> None:
    body = {"prompt": SECRET, "parameters": {"max_new_tokens": LONG, "ignore_eos": True}, "stream": True}
    with traced.server.client.stream("POST", "/generate", json=body) as answer:
        next(answer.iter_bytes())
    root = traced.trace_of(answer)
    wait_until(lambda: "decode" in traced.collector.trace(root.trace_id).names())
    root = traced.collector.trace(root.trace_id)
    assert root.attributes["shira.outcome"] == "aborted"
    assert not root.is_error
    decode = root.child("decode")
    assert decode.attributes["error.type"] == "Aborted"
    assert 0 < decode.attributes["shira.tokens"] < LONG
    assert "delivery" not in root.names()


def test_an_upload_is_received_validated_written_and_published(traced: Traced) -> None:
    before = traced.server.client.get("/adapters/a/content")
    answer = traced.server.client.post("/adapters", data={"name": "again"}, files={"file": before.content})
    root = traced.trace_of(answer)
    assert root.name == "POST /adapters"
    assert root.names() == ["receive", "validate", "write", "publish"]
    assert_nests(root)
    assert root.attributes["shira.adapter.versions"] == [checked(answer)["version"]]


def test_a_picture_is_one_phase_of_many_steps(drawing: tuple[PictureWorld, Collector]) -> None:
    world, own = drawing
    traced = Traced(server=world.server, collector=own)
    body = {"prompt": SECRET, "adapter": "a", "parameters": {"num_inference_steps": 5, "seed": 1}}
    answer = world.server.client.post("/generate", json=body)
    receipt = checked(answer)["receipt"]
    root = traced.trace_of(answer)
    assert root.names() == ["admission", "queue", "denoise", "delivery"]
    assert_nests(root)
    denoise = root.child("denoise")
    assert denoise.attributes["shira.steps"] == 5
    assert root.attributes["gen_ai.output.type"] == "image"
    arrived_ns = denoise.ended_ns - int(receipt["total_ms"] * 1e6)
    assert ms_between(arrived_ns, denoise.started_ns) == pytest.approx(receipt["queue_ms"], abs=ROUNDING_MS)


def test_the_trace_of_the_caller_goes_on_here(traced: Traced) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    answer = traced.ask(headers={"traceparent": f"00-{trace_id}-{span_id}-01"})
    assert answer.headers["traceresponse"].startswith(f"00-{trace_id}-")
    assert traced.trace_of(answer).parent_id == span_id


def test_a_caller_who_does_not_record_is_not_recorded_but_is_told_the_ids(traced: Traced) -> None:
    trace_id = "1af7651916cd43dd8448eb211c80319c"
    quiet = traced.ask(headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-00"})
    assert quiet.headers["traceresponse"].startswith(f"00-{trace_id}-")
    traced.trace_of(traced.ask())  # behind it
    assert all(span.trace_id != trace_id for span in traced.collector.spans())


def test_who_asks_whether_the_server_lives_is_not_traced(traced: Traced) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert "traceresponse" not in traced.server.client.get(path).headers
    traced.trace_of(traced.ask())
    assert SERVICE.encode() in traced.collector.raw
    assert not [span for span in traced.collector.spans() if "livez" in span.name or "metrics" in span.name]


def test_at_a_ratio_of_0_nothing_is_sent(tmp_path: Path) -> None:
    with collector() as (own, url), tiny_server(tmp_path, "--otlp-endpoint", url, "--trace-ratio", "0") as server:
        server.push("a", random_adapter(tmp_path, "a", 0))
        for _ in range(5):
            server.generate("a")
        server.stop()
        assert own.num_batches == 0


def test_what_is_left_is_sent_before_the_server_stops(tmp_path: Path) -> None:
    with collector() as (own, url), tiny_server(tmp_path, "--otlp-endpoint", url) as server:
        server.generate()
        assert server.stop() == 0
        [root] = [root for root in own.roots() if root.name == "POST /generate"]
        assert root.names()[-1] == "delivery"


def closing_s(server: LiveServer) -> float:
    """From the last answer to the end of the lifespan, by the log: the rest is up to the machine."""
    lines = server.log_path.read_text().splitlines()
    ends = [next(line for line in lines if told in line) for told in ("Waiting for application shutdown", "stopped")]
    began, ended = (datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in ends)
    return (ended - began).total_seconds()


def test_a_collector_that_is_gone_slow_or_failing_harms_no_request_and_holds_up_no_stop(tmp_path: Path) -> None:
    with collector() as (own, url), tiny_server(tmp_path, "--otlp-endpoint", url) as server:
        answer = server.generate()["text"]
        own.status = 500
        assert server.generate()["text"] == answer
        wait_until(lambda: "are lost until they can" in server.log_path.read_text())
        own.delay_s = 60.0
        took_s = []
        for _ in range(20):
            started_s = time.monotonic()
            assert server.generate()["text"] == answer
            took_s.append(time.monotonic() - started_s)
        assert max(took_s) < 1.0
        assert server.stop() == 0
        assert closing_s(server) < CLOSE_S + 2.0
        assert "Traceback" not in server.log_path.read_text()
        own.delay.set()
    with tiny_server(tmp_path / "gone", "--otlp-endpoint", "http://127.0.0.1:9") as server:
        assert server.generate()["text"] == answer
        wait_until(lambda: "are lost until they can" in server.log_path.read_text())
        assert server.generate()["text"] == answer
        assert server.stop() == 0
        assert server.log_path.read_text().count("are lost until they can") == 1
