"""How the process logs: one line per record on standard error, text or JSON. Lifecycle and switches, never tokens."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)  # of the request that logs, if it is traced

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class TextFormatter(logging.Formatter):
    """What a client sent can make no line of its own: control characters are shown as escapes, tracebacks indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = "".join(f" {key}={value}" for key, value in extra_fields(record).items())
        return _printable(super().formatMessage(record) + extra)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(f"  {_printable(line)}" for line in super().formatException(ei).split("\n"))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= extra_fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def add_trace_id(record: logging.LogRecord) -> bool:
    """A filter that keeps every record."""
    if (current := trace_id.get()) is not None:
        record.trace_id = current
    return True


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """What was given as ``extra=``."""
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Replaces the root logger's handlers; uvicorn's own loggers fall through to it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(add_trace_id)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
