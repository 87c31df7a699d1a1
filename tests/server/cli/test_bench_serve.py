from __future__ import annotations

from pathlib import Path

import pytest

from server.cli.root import run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--preset", "nonsense"], "nonsense"),
        (["--prompt-tokens", "many"], "a number such as 64 or a range such as 16-256"),
        (["--new-tokens", "9-3"], "the lower one first"),
        (["--keys", "0.5;0.5"], "shares such as 0.7,0.3"),
        (["--keys", "1,0"], "above 0"),
        (["--server-option", "max-batch"], "such as max_batch=16"),
        (["--adapters", "8", "--held", "4"], "at least --adapters, which is 8, got 4"),
        (["--rate", "2", "--baseline", "generate"], "have no clock"),
        (["--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_usage_is_refused_before_anything_starts(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "serve", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_what_is_not_there_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["bench", "serve", "--model", str(tmp_path), "--work-dir", str(tmp_path / "work")]
    assert run([*common, "--preset", "vllm"]) == 1
    assert "(--vllm), got none" in capsys.readouterr().err
    assert run([*common, "--json", str(tmp_path / "nowhere" / "out.json")]) == 1
    assert "expected a folder that exists" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
