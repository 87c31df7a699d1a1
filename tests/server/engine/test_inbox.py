from __future__ import annotations

from server.core.requests import RequestId
from server.engine.inbox import Inbox
from server.engine.messages import Abort, Submit
from tests.server.engine.fakes import Client, make_request


def together(num_requests: int) -> Submit:
    return Submit(
        requests=tuple(make_request() for _ in range(num_requests)),
        sinks=tuple(Client() for _ in range(num_requests)),
    )


def test_requests_that_come_together_are_counted_one_by_one_and_taken_whole() -> None:
    inbox = Inbox(3)
    first, last = together(2), together(1)
    assert inbox.put(first)
    assert not inbox.put(together(2))
    assert inbox.put(last)
    assert inbox.put(Abort(request_id=RequestId("x")))  # belongs to a request that was taken
    assert inbox.take_all(timeout_s=0)[:2] == [first, last]
    assert inbox.put(together(3))
