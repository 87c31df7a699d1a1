from __future__ import annotations

from time import monotonic

from loadtest.names import Names


def test_a_name_stands_for_its_version_and_an_unknown_one_for_none() -> None:
    names = Names({"a": "v1"})
    assert names.possible("a", since_s=monotonic()) == {"v1"}
    assert names.possible("b", since_s=monotonic()) == set()


def test_while_a_name_moves_both_versions_are_possible_and_afterwards_for_those_that_were_sent_before() -> None:
    names = Names({"a": "v1"})
    before_s = monotonic()
    with names.moving("a", {"v1": "v2", "v2": "v1"}) as version:
        assert version == "v2"
        assert names.possible("a", since_s=monotonic()) == {"v1", "v2"}
    assert names.possible("a", since_s=before_s) == {"v1", "v2"}
    assert names.possible("a", since_s=monotonic()) == {"v2"}
    with names.moving("a", {"v1": "v2", "v2": "v1"}) as version:
        assert version == "v1"


def test_a_name_that_was_forgotten_stands_for_nothing() -> None:
    names = Names({})
    names.add("a", "v1")
    names.add("a", "v2")
    assert names.possible("a", since_s=monotonic()) == {"v2"}
    names.forget("a")
    assert names.possible("a", since_s=monotonic()) == set()
