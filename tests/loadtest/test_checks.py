from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from loadtest.checks import rejection, unanswered, wrong_image, wrong_text
from loadtest.trace import ImageRow, TextRow
from server.api.errors import TABLE, Status

ROW = TextRow(offset_s=0, adapters=("a", "b"), prompt_tokens=3, output_tokens=2)
VERSIONS = {"a": {"v1", "v2"}, "b": {"v3"}}


def text_answer() -> dict[str, Any]:
    return {
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "finish_reason": "length",
        "receipt": {
            "adapters": [
                {"name": "a", "version": "v2", "scale": 0.5},
                {"name": "b", "version": "v3", "scale": 0.5},
            ]
        },
    }


def test_the_answer_that_was_asked_for_is_right_in_any_order_of_its_adapters() -> None:
    answer = text_answer()
    assert wrong_text(ROW, answer, VERSIONS) is None
    answer["receipt"]["adapters"].reverse()
    assert wrong_text(ROW, answer, VERSIONS) is None


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("usage", "prompt_tokens"), 4, "tokens"),
        (("usage", "completion_tokens"), 1, "tokens"),
        (("finish_reason",), "stop", "finish_reason"),
        (("receipt", "adapters", 0, "version"), "v9", "version of a: expected v1 or v2, got v9"),
        (("receipt", "adapters", 0, "scale"), 1.0, "scale of a: expected 0.5, got 1.0"),
        (("receipt", "adapters", 0, "name"), "c", "adapters"),
        (("receipt", "adapters"), [], "adapters"),
    ],
)
def test_any_other_answer_is_wrong(path: tuple[Any, ...], value: object, says: str) -> None:
    answer = text_answer()
    place: Any = answer
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert says in str(wrong_text(ROW, answer, VERSIONS))


def test_a_base_answer_to_who_asked_for_an_adapter_is_wrong_and_so_is_the_reverse() -> None:
    base = TextRow(offset_s=0, prompt_tokens=3, output_tokens=2)
    assert "adapters" in str(wrong_text(base, text_answer(), VERSIONS))


def image_answer(side: int, kind: str = "PNG") -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, format=kind)
    return {
        "images": [{"b64": base64.b64encode(file.getvalue()).decode()}],
        "usage": {"num_steps": 4, "num_images": 1},
        "receipt": {"adapters": []},
    }


def test_a_picture_has_the_size_the_steps_and_the_form_asked_for() -> None:
    row = ImageRow(offset_s=0, num_steps=4, side=8)
    assert wrong_image(row, image_answer(8), {}) is None
    assert "8×8" in str(wrong_image(row, image_answer(16), {}))
    assert "PNG" in str(wrong_image(row, image_answer(8, "BMP"), {}))
    assert "steps" in str(wrong_image(ImageRow(offset_s=0, num_steps=5, side=8), image_answer(8), {}))
    cut = image_answer(64)
    cut["images"][0]["b64"] = cut["images"][0]["b64"][:64]
    with pytest.raises(OSError):  # noqa: PT011 - Pillow's own words
        wrong_image(row, cut, {})


def error(code: str) -> bytes:
    return json.dumps({"error": {"type": "t", "code": code, "message": "m", "param": None}}).encode()


def test_a_refusal_counts_as_one_only_in_the_documented_shape() -> None:
    assert unanswered(429, {"retry-after": "1"}, error("queue_full")) == ("refused", "queue_full")
    assert unanswered(503, {}, error("draining")) == ("refused", "draining")
    assert unanswered(504, {}, error("deadline_exceeded")) == ("refused", "deadline_exceeded")
    assert unanswered(429, {}, error("queue_full")) is None, "without Retry-After"
    assert unanswered(503, {}, error("deadline_exceeded")) is None, "of another status"
    assert unanswered(500, {}, error("internal_error")) is None
    assert unanswered(503, {}, b"upstream connect error") is None
    assert unanswered(503, {}, b'{"error": "draining"}') is None


@pytest.mark.parametrize(
    "row", [row for row in TABLE.values() if row.status in {429, 503, 504}], ids=lambda row: row.code
)
def test_every_refusal_of_the_server_is_known_and_an_engine_that_died_refuses_nothing(row: Status) -> None:
    ending = "lost" if row.code == "engine_died" else "refused"
    assert unanswered(row.status, {"retry-after": "1"}, error(row.code)) == (ending, row.code)


def test_a_bad_file_must_be_rejected_and_say_why() -> None:
    assert rejection(422, error("adapter_rejected")) == "adapter_rejected"
    assert rejection(201, b"{}") is None
    assert rejection(500, error("internal_error")) is None
