"""What ``/metrics`` tells of who waits and who runs."""

from __future__ import annotations

from server.engine.inbox import Inbox
from server.engine.live_requests import LiveRequests
from server.engine.messages import Submit
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend, make_request, submit


def told(desk: Desk, inbox: Inbox) -> dict[str, float]:
    """Published by hand: every sample of a gauge that is not 0."""
    LiveRequests(desk.metrics, desk.scheduler, inbox, desk.clock).publish()
    families = [family for family in desk.metrics.registry.collect() if family.name.startswith("shira_")]
    samples = [sample for family in families if family.type == "gauge" for sample in family.samples]
    return {" ".join((s.name, *sorted(s.labels.values()))): s.value for s in samples if s.value}


def waiting_in(inbox: Inbox, desk: Desk, *, tenant: str) -> Submit:
    command, _ = submit(make_request(arrived_s=desk.clock.now(), tenant=tenant))
    assert inbox.put(command)
    return command


def test_a_request_waits_from_the_moment_it_is_posted_until_its_first_step() -> None:
    desk, inbox = Desk(max_batch=1), Inbox(8)
    desk.ask(tenant="a")
    desk.turn()
    desk.ask(tenant="a")
    desk.clock.seconds += 3
    waiting_in(inbox, desk, tenant="b")
    desk.clock.seconds += 2
    assert told(desk, inbox) == {
        "shira_queue_depth": 2,
        "shira_requests_running": 1,
        "shira_oldest_wait_seconds": 5,
        "shira_tenant_requests a running": 1,
        "shira_tenant_requests a waiting": 1,
        "shira_tenant_requests b waiting": 1,
        "shira_tenant_oldest_wait_seconds a": 5,
        "shira_tenant_oldest_wait_seconds b": 2,
    }


def test_a_request_on_its_way_from_the_inbox_to_the_scheduler_counts_once() -> None:
    desk, inbox = Desk(), Inbox(8)
    desk.stepper.submit(waiting_in(inbox, desk, tenant="a"))
    desk.turn()
    assert told(desk, inbox)["shira_tenant_requests a running"] == 1
    assert "shira_queue_depth" not in told(desk, inbox)


def test_one_that_gave_up_its_place_is_parked() -> None:
    desk, inbox = Desk(max_batch=1, patience_steps=1, turn_steps=1, schedule="fused"), Inbox(8)
    desk.ask(make_blend("a"), max_new_tokens=50), desk.ask(make_blend("b"), max_new_tokens=50)
    desk.turns(6)
    now = told(desk, inbox)
    assert (now["shira_requests_running"], now["shira_requests_parked"]) == (1, 1)


def test_a_tenant_with_nothing_left_has_no_series() -> None:
    desk, inbox = Desk(), Inbox(8)
    desk.ask(tenant="a")
    desk.turn()
    assert "shira_tenant_requests a running" in told(desk, inbox)
    desk.run_out()
    assert told(desk, inbox) == {}
