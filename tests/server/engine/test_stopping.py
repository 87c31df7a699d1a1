from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from server.engine.stopping import StopGate


def run(stop: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    gate = StopGate(stop)
    text = "".join(gate.push(piece) for piece in pieces) + gate.finish()
    return text, gate.is_stopped


def test_a_stop_string_split_across_pieces_is_found_and_left_out() -> None:
    assert run(("END",), ["some te", "xt E", "N", "D and more"]) == ("some text ", True)


def test_text_that_only_began_a_stop_string_comes_out_at_the_end() -> None:
    assert run(("END",), ["the E", "N"]) == ("the EN", False)


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert StopGate(()).push("as it comes") == "as it comes"


def test_only_a_tail_that_may_become_a_stop_string_is_held_back() -> None:
    gate = StopGate(("\n\n",))
    assert gate.push("one\n") == "one"
    assert gate.push("two") == "\ntwo"


@given(
    text=st.text(alphabet="ab", max_size=30),
    stop=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_how_text_is_cut_into_pieces_changes_nothing(text: str, stop: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    complete = sorted((at + len(s), at) for s in stop if (at := text.find(s)) >= 0)
    expected = text[: complete[0][1]] if complete else text
    assert run(tuple(stop), pieces) == (expected, bool(complete))
