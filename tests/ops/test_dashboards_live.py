"""A Grafana-shaped proof without Grafana: a real Prometheus scrapes real servers under load, and every expression of
every panel, recording rule and alert is evaluated over its HTTP API."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters_store.base import describe_checkpoint
from adapters_store.format import write_adapter
from deploy.monitoring.board import HERE, INTERVAL, Panel
from deploy.monitoring.boards import BOARDS
from deploy.monitoring.ops_tools import Tools
from loadtest.live_server import LiveServer, checked, wait_until
from loadtest.tiny_model import save_tiny_model
from server.bench_serve.random_adapters import sparse_adapter
from server.core.keys import hash_secret
from server.core.metrics import SWITCH_BUCKETS_S
from tests.deploy.series import MADE_BY_PROMETHEUS, alerts, named_in, recordings
from tests.e2e.picture_world import PictureWorld, picture_world
from tests.ops.live_prometheus import LivePrometheus, Sample, live_prometheus

pytestmark = pytest.mark.ops

KEY = "a-key"
WINDOW = "10m"  # longer than all of this takes: a rate over it is over every request
ADAPTERS = ["a", "b", "c", "d"]
LATE_ADAPTER = "e"  # uploaded while Prometheus looks on
NUM_ONE_BY_ONE, NUM_AT_ONCE, NUM_IMAGES = 60, 48, 6
NUM_ROUNDS = 2  # a series begins with its first count, which is in no rate: the second round is
EXPRESSIONS = [
    pytest.param(panel, query.promql, id=f"{board.uid}-{panel.title}-{place}")
    for board in BOARDS
    for _, panel in board.panels()
    for place, query in enumerate(panel.queries)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """``receipts``: of every text that was answered."""

    prometheus: LivePrometheus
    receipts: list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("ops")
    with text_server(directory) as text, picture_world(directory / "pictures") as pictures:
        push(text, *ADAPTERS)
        text.stop()  # so that bytes have to be brought from the disk
        text.start()
        targets = {"shira": text.port, "shira-pictures": pictures.server.port}
        with live_prometheus(tools, directory, key=KEY, targets=targets) as prometheus:
            wait_until(lambda: prometheus.value('sum(up{job=~"shira.*"})') == 2)
            push(text, LATE_ADAPTER)
            assert text.client.post("/generate", json={"prompt": "a", "adapter": "nobody"}).status_code == 404
            assert checked(text.client.post("/admin/verify"))["ok"]
            receipts: list[dict[str, Any]] = []
            for number in range(1, NUM_ROUNDS + 1):
                receipts += load(text, pictures)
                wait_until(lambda: prometheus.value(told("ok")) == len(receipts) + number * NUM_IMAGES)  # noqa: B023
                prometheus.settle()
            yield World(prometheus=prometheus, receipts=receipts)


def text_server(directory: Path) -> LiveServer:
    """Not on loopback alone, so that it wants the key from whoever scrapes it."""
    model = save_tiny_model(directory / "tiny")
    keys = directory / "keys.toml"
    keys.write_text(f'[[keys]]\nsha256 = "{hash_secret(KEY).hex()}"\nrole = "admin"\n')
    server = LiveServer(
        directory / "text",
        "--model",
        str(model),
        "--host",
        "0.0.0.0",  # noqa: S104
        "--api-keys-file",
        str(keys),
    )
    server.client.headers["Authorization"] = f"Bearer {KEY}"
    return server


def push(text: LiveServer, *names: str) -> None:
    base = describe_checkpoint(text.data_dir.parent / "tiny")
    for name in names:
        path = text.data_dir.parent / f"{name}.safetensors"
        write_adapter(sparse_adapter(base, sparsity=0.05, seed=ord(name)), path)
        text.push(name, path)


def load(text: LiveServer, pictures: PictureWorld) -> list[dict[str, Any]]:
    """Texts one by one, then many at once, images meanwhile; the receipts of the texts."""
    blends = [[], *([name] for name in ADAPTERS), ADAPTERS[:2]]
    with ThreadPoolExecutor(12) as pool:
        images = [pool.submit(pictures.ask, name) for name in "abcabc"[:NUM_IMAGES]]
        answers = [text.generate(blends[number % len(blends)]) for number in range(NUM_ONE_BY_ONE)]
        wishes = [(blends[number % len(blends)], "At once", 64) for number in range(NUM_AT_ONCE)]
        answers += pool.map(lambda wish: text.generate(wish[0], prompt=wish[1], num_tokens=wish[2]), wishes)
        assert all(image.result()["images"] for image in images)
    return [answer["receipt"] for answer in answers]


@pytest.mark.parametrize(("panel", "promql"), EXPRESSIONS)
def test_every_query_of_a_panel_returns_sane_data(world: World, panel: Panel, promql: str) -> None:
    samples = world.prometheus.query(as_grafana_asks(promql))
    assert samples
    for sample in samples:
        assert math.isfinite(sample.value), sample
        assert sample.value >= 0 or sample.value in {float(value) for value, _ in panel.names}, sample
        if panel.is_share:
            assert sample.value <= 1, sample


def test_every_rule_is_evaluated_and_records_something(world: World) -> None:
    rules = world.prometheus.rules()
    assert {rule["name"] for rule in rules} == {*recordings(), *(alert["alert"] for alert in alerts())}
    assert {rule["health"] for rule in rules} == {"ok"}
    for name in recordings():
        samples = world.prometheus.query(name)
        assert samples, name
        assert all(math.isfinite(sample.value) for sample in samples), name


def test_a_healthy_server_raises_no_alert(world: World) -> None:
    states = {rule["name"]: rule["state"] for rule in world.prometheus.rules() if rule["type"] == "alerting"}
    assert set(states.values()) == {"inactive"}, states


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_series_that_an_alert_reads_is_there(world: World, alert: dict[str, Any]) -> None:
    for name in named_in(alert["expr"]) - MADE_BY_PROMETHEUS:
        assert world.prometheus.query(name), name


def test_as_many_requests_are_counted_as_were_sent(world: World) -> None:
    prometheus = world.prometheus
    num_texts, num_images = NUM_ROUNDS * (NUM_ONE_BY_ONE + NUM_AT_ONCE), NUM_ROUNDS * NUM_IMAGES
    assert len(world.receipts) == num_texts
    assert prometheus.value(told("ok", job="shira")) == num_texts
    assert prometheus.value(told("ok", job="shira-pictures")) == num_images
    assert (prometheus.value(told("client")), prometheus.value(told("failed"))) == (1, 0)
    assert prometheus.value("sum(shira_images_total)") == num_images
    assert prometheus.value("sum(shira_request_switch_seconds_count)") == num_texts + num_images
    assert prometheus.value('sum(shira_uploads_total{job="shira", outcome="created"})') == 1
    assert prometheus.value('sum(shira_tokens_total{job="shira", kind="completion"})') == (
        NUM_ROUNDS * (NUM_ONE_BY_ONE * 8 + NUM_AT_ONCE * 64)
    )


@pytest.mark.parametrize("place", [0, 1, 2], ids=["p50", "p95", "p99"])
def test_the_switch_quantiles_of_the_dashboard_are_what_the_clients_saw(world: World, place: int) -> None:
    [panel] = [panel for board in BOARDS for _, panel in board.panels() if "switch_ms" in panel.description]
    promql = as_grafana_asks(panel.queries[place].promql, job="shira")
    [shown] = world.prometheus.query(promql)
    seen_s = sorted(receipt["switch_ms"] / 1e3 for receipt in world.receipts)
    share = (0.5, 0.95, 0.99)[place]
    expected_s = seen_s[math.ceil(share * len(seen_s)) - 1]
    assert abs(bucket_of(shown.value) - bucket_of(expected_s)) <= 1, (shown.value, expected_s)


def test_the_time_spent_on_switches_is_what_the_receipts_add_up_to(world: World) -> None:
    told_s = sum(receipt["switch_ms"] / 1e3 for receipt in world.receipts)
    assert world.prometheus.value('sum(shira_request_switch_seconds_sum{job="shira"})') == pytest.approx(told_s)


def test_every_switch_is_timed(world: World) -> None:
    num_switches = world.prometheus.value('sum(shira_switches_total{job="shira"})')
    assert world.prometheus.value('sum(shira_switch_seconds_count{job="shira", phase="total"})') == num_switches


def test_tiers_hold_what_was_uploaded_within_their_budgets(world: World) -> None:
    held = by_tier(world.prometheus.query('shira_tier_bytes{job="shira"}'))
    budgets = by_tier(world.prometheus.query('shira_tier_budget_bytes{job="shira"}'))
    for tier in ("device", "host"):
        assert 0 < held[tier] <= budgets[tier]
    assert world.prometheus.value('shira_adapter_resident{job="shira", tier="disk"}') == len([*ADAPTERS, LATE_ADAPTER])


def test_the_base_was_found_intact_by_the_audit_that_was_asked_for(world: World) -> None:
    age_s = world.prometheus.value('time() - shira_base_verified_timestamp_seconds{job="shira"}')
    assert 0 < age_s < 600
    assert world.prometheus.value("sum(shira_base_integrity_failures_total)") == 0


def told(verdict: str, *, job: str = ".*") -> str:
    return f'sum(shira_generations_total{{verdict="{verdict}", job=~"{job}"}})'


def as_grafana_asks(promql: str, *, job: str = ".*") -> str:
    """With the variables filled in."""
    here = HERE.replace("$job", job).replace("$instance", ".*")
    return promql.replace(HERE, here).replace("$job", job).replace(INTERVAL, WINDOW)


def bucket_of(seconds: float) -> int:
    return bisect_left(SWITCH_BUCKETS_S, seconds)


def by_tier(samples: list[Sample]) -> dict[str, float]:
    return {sample.labels["tier"]: sample.value for sample in samples}
