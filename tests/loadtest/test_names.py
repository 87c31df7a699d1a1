from __future__ import annotations

from time import monotonic

import pytest

from loadtest.names import Names
from loadtest.outcomes import Ending

NEXT = {"v1": "v2", "v2": "v1"}


def test_a_name_stands_for_its_version_and_an_unknown_one_for_none() -> None:
    names = Names({"a": "v1"})
    assert names.possible("a", since_s=monotonic()) == {"v1"}
    assert names.possible("b", since_s=monotonic()) == set()


def test_while_a_name_moves_both_versions_are_possible_and_afterwards_for_those_that_were_sent_before() -> None:
    names = Names({"a": "v1"})
    before_s = monotonic()
    with names.moving("a", NEXT) as move:
        assert move.version == "v2"
        assert names.possible("a", since_s=monotonic()) == {"v1", "v2"}
        move.ending = "answered"
    assert names.possible("a", since_s=before_s) == {"v1", "v2"}
    assert names.possible("a", since_s=monotonic()) == {"v2"}
    with names.moving("a", NEXT) as move:
        assert move.version == "v1"


def test_a_move_that_was_refused_leaves_a_name_with_its_old_version() -> None:
    names = Names({"a": "v1"})
    with names.moving("a", NEXT) as move:
        move.ending = "refused"
    assert names.possible("a", since_s=monotonic()) == {"v1"}


@pytest.mark.parametrize("ending", ["lost", "wrong"])
def test_where_nobody_knows_whether_a_name_moved_both_are_possible_until_a_move_is_answered(ending: Ending) -> None:
    names = Names({"a": "v1"})
    with names.moving("a", {"v1": "v2"}) as move:
        move.ending = ending
    assert names.possible("a", since_s=monotonic()) == {"v1", "v2"}
    with names.moving("a", {"v2": "v3"}) as move:
        move.ending = "answered"
    assert names.possible("a", since_s=monotonic()) == {"v3"}


def test_a_name_that_was_forgotten_stands_for_nothing() -> None:
    names = Names({})
    names.add("a", "v1")
    names.add("a", "v2")
    assert names.possible("a", since_s=monotonic()) == {"v2"}
    names.forget("a")
    assert names.possible("a", since_s=monotonic()) == set()
