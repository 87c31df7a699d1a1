from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from adapters_store.tiers.single_flight import SingleFlight

DEADLINE_S = 10


def test_calls_that_meet_share_one_piece_of_work() -> None:
    flights: SingleFlight[str, object] = SingleFlight()
    entered, go_on = Event(), Event()
    worked: list[object] = []

    def work() -> object:
        entered.set()
        assert go_on.wait(DEADLINE_S)
        worked.append(object())
        return worked[-1]

    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(flights.run, "key", work)
        assert entered.wait(DEADLINE_S)
        followers = [pool.submit(flights.run, "key", work) for _ in range(3)]
        _, led = flights.run("other", object)
        assert led
        go_on.set()
        results = [future.result(DEADLINE_S) for future in (leader, *followers)]
    assert results[0] == (worked[0], True)
    assert {result for result, _ in results} <= set(worked)
    assert sum(led for _, led in results) == len(worked)


def test_an_error_reaches_all_that_wait_and_the_next_call_works_anew() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    entered, go_on = Event(), Event()

    def fail() -> int:
        entered.set()
        assert go_on.wait(DEADLINE_S)
        raise ValueError("once")

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(flights.run, "key", fail)]
        assert entered.wait(DEADLINE_S)
        calls.append(pool.submit(flights.run, "key", fail))
        go_on.set()
        for call in calls:
            with pytest.raises(ValueError, match="once"):
                call.result(DEADLINE_S)
    assert flights.run("key", lambda: 7) == (7, True)
