from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from server.core.log import JsonFormatter, TextFormatter, configure_logging


def record(**extra: object) -> logging.LogRecord:
    try:
        raise ValueError("bad")
    except ValueError:
        made = logging.makeLogRecord({"name": "shira", "levelname": "INFO", "msg": "at %d", "args": (7,), **extra})
        made.exc_info = sys.exc_info()
        return made


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_record_is_one_line_with_its_extra_fields_and_its_trace() -> None:
    text = JsonFormatter().format(record(switch_ms=1.5))
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"], line["switch_ms"]) == ("info", "shira", "at 7", 1.5)
    assert line["exception"].endswith("ValueError: bad")


def test_a_text_record_carries_its_extra_fields_on_its_first_line() -> None:
    first, *trace = TextFormatter().format(record(switch_ms=1.5)).splitlines()
    assert first.endswith("INFO    shira: at 7 switch_ms=1.5")
    assert trace[-1] == "  ValueError: bad"


@pytest.mark.parametrize("line_end", ["\n", "\r", "\x0b", "\x1b[2K", "\x85", "\u2028"])
def test_nothing_that_a_client_sent_begins_a_line_of_the_log_or_moves_its_cursor(line_end: str) -> None:
    """The path of a request was logged as it came, before anybody looked at its key."""
    hostile = f"/a{line_end}2026-01-01 00:00:00,000 CRITICAL server: forged"
    record = logging.makeLogRecord({"name": "shira", "levelname": "INFO", "msg": "%s", "args": (hostile,)})
    record.path = hostile
    try:
        raise ValueError(hostile)
    except ValueError:
        record.exc_info = sys.exc_info()
    text = TextFormatter().format(record)
    first, *rest = text.splitlines()
    assert first.count("forged") == 2
    assert all(line.startswith("  ") for line in rest)
    assert text.replace("\n", "").isprintable()


def test_uvicorn_writes_in_the_same_form(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", "info")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("shira").debug("not shown")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["message"]) for line in lines] == [("uvicorn.error", "started")]
