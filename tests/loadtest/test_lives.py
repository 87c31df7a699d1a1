"""What uploads do, against a server whose answers a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from loadtest.asking import Asker, http_client
from loadtest.lives import Lives
from loadtest.names import Names
from loadtest.outcomes import Outcome
from loadtest.stock import HostileFile, ServerStock, Stock, UploadFile
from loadtest.trace import UploadRow
from tests.loadtest.scripted import scripted

REFUSED = json.dumps({"error": {"type": "t", "code": "queue_full", "message": "m", "param": None}}).encode()
LIFE = UploadRow(offset_s=2.5, form="native", name="mine", seed=1)


class Store:
    """Answers as a server does, of one name; ``changed`` has other answers by method."""

    def __init__(self, version: str, **changed: tuple[int, bytes]) -> None:
        self._version, self._changed = version, changed

    def __call__(self, method: str, path: str) -> tuple[int, bytes]:
        if method in self._changed and path != "/generate":
            return self._changed[method]
        match method, path:
            case "POST", "/generate":
                return 200, self._stream()
            case "GET", "/adapters/mine":
                return 404, b"{}"
            case "GET", _:
                return 200, b"bytes"
        return 200, json.dumps({"name": "mine", "version": self._version, "base_verified": True}).encode()

    def _stream(self) -> bytes:
        one = {"name": "mine", "version": self._version, "scale": 1.0}
        usage = {"prompt_tokens": 8, "completion_tokens": 8}
        last = {"text": "a", "finish_reason": "length", "usage": usage, "receipt": {"adapters": [one]}}
        return b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"


@pytest.fixture
def lived(tmp_path: Path) -> Callable[..., list[Outcome]]:
    (tmp_path / "native").write_bytes(b"bytes")
    stock = ServerStock(
        url="",
        versions={"moving": ("v1", "v2")},
        files=(UploadFile(version="v1", native=tmp_path / "native", peft=None),),
        hostile=(HostileFile(label="bad", path=tmp_path / "native"),),
    )

    def live(row: UploadRow, answer: Any, names: Names | None = None) -> list[Outcome]:
        names, start_s = names or Names({}), monotonic()
        asker = Asker(Stock(servers={}, words=(" a",), captions=()), names, start_s=start_s)
        with scripted(answer) as url, http_client(url) as client:
            return list(Lives(client, stock, names, asker, start_s=start_s).live(row))

    return live


def told(outcomes: list[Outcome]) -> list[str]:
    return [f"{one.action} {one.ending}" for one in outcomes]


def test_a_life_is_whole_and_its_first_request_alone_is_due_with_its_row(lived: Callable[..., list[Outcome]]) -> None:
    outcomes = lived(LIFE, Store("v1"))
    actions = ["upload", "text", "download", "upload", "text", "move", "text", "delete"]
    assert told(outcomes) == [f"{action} answered" for action in actions]
    assert [one.due_s for one in outcomes] == [2.5, *[None] * 7]


@pytest.mark.parametrize("body", [b"", b"created", b"[]", b"7", b'"mine"'])
@pytest.mark.parametrize("form", ["native", "move"])
def test_an_answer_that_is_none_is_wrong_and_not_passed_over(
    lived: Callable[..., list[Outcome]], form: str, body: bytes
) -> None:
    names = Names({"moving": "v1"})
    row = UploadRow.model_validate({"offset_s": 0, "form": form, "name": "moving" if form == "move" else "mine"})
    outcomes = lived(row, Store("v1", POST=(201, body), PATCH=(200, body)), names)
    assert [one.ending for one in outcomes] == ["wrong"]


def test_a_life_whose_move_is_answered_with_nothing_is_deleted_all_the_same(
    lived: Callable[..., list[Outcome]],
) -> None:
    assert told(lived(LIFE, Store("v1", PATCH=(200, b"moved"))))[-2:] == ["move wrong", "delete answered"]


def test_a_life_whose_move_is_refused_ends_and_makes_no_later_answer_wrong(
    lived: Callable[..., list[Outcome]],
) -> None:
    assert told(lived(LIFE, Store("v1", PATCH=(429, REFUSED))))[-2:] == ["move refused", "delete answered"]


def test_a_refused_move_leaves_a_popular_name_as_it_was(lived: Callable[..., list[Outcome]]) -> None:
    names, row = Names({"moving": "v1"}), UploadRow(offset_s=0, form="move", name="moving")
    assert told(lived(row, Store("v1", PATCH=(429, REFUSED)), names)) == ["move refused"]
    assert names.possible("moving", since_s=monotonic()) == {"v1"}
    assert told(lived(row, Store("v2"), names)) == ["move answered"]
    assert names.possible("moving", since_s=monotonic()) == {"v2"}


def test_a_bad_file_that_is_taken_is_wrong(lived: Callable[..., list[Outcome]]) -> None:
    outcomes = lived(UploadRow(offset_s=1, form="hostile", name="mine"), Store("v1"))
    assert told(outcomes) == ["hostile wrong"]
    assert outcomes[0].due_s == 1
