from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.drawing import draw_trace
from loadtest.scenario import ScenarioRejected
from loadtest.trace import TextRow, read_trace, write_trace
from tests.loadtest.scenarios import IMAGE, scenario


def test_a_trace_that_is_written_and_read_gives_the_same_requests_at_the_same_times(tmp_path: Path) -> None:
    drawn = draw_trace(scenario(mix={"text": 1, "image": 1, "upload": 1}, image=IMAGE, upload={}, duration_s=2))
    assert {row.kind for row in drawn} == {"text", "image", "upload"}
    write_trace(drawn, tmp_path / "trace.jsonl")
    assert read_trace(tmp_path / "trace.jsonl") == drawn


def test_a_public_trace_of_times_and_lengths_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "public.jsonl"
    path.write_text(
        '{"offset_s": 2.5, "prompt_tokens": 10, "output_tokens": 3}\n\n'
        '{"offset_s": 0, "prompt_tokens": 1, "output_tokens": 1}\n'
    )
    assert read_trace(path) == [
        TextRow(offset_s=0, prompt_tokens=1, output_tokens=1),
        TextRow(offset_s=2.5, prompt_tokens=10, output_tokens=3),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"offset_s": -1, "prompt_tokens": 1, "output_tokens": 1}', "offset_s: expected greater than or equal to 0"),
        ('{"offset_s": 1, "output_tokens": 1}', "prompt_tokens: expected a value, got none"),
        ('{"offset_s": 1, "kind": "video"}', "video"),
        ("[1]", "expected a JSON object"),
        ("not json", "expected a JSON object"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"offset_s": 1, "prompt_tokens": 1, "output_tokens": 1}\n' + line)
    with pytest.raises(ScenarioRejected) as refused:
        read_trace(path)
    assert f"{path}:2: " in str(refused.value)
    assert says in str(refused.value)
