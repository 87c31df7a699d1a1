from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from server.core.config import load_config
from server.core.errors import ConfigError
from server.core.log import JsonFormatter, add_trace_id, trace_id
from server.core.tracing import UNTRACED, NoTracing, Phase, open_tracing

WITHOUT_EXTRA = "import sys; sys.modules |= {'opentelemetry.exporter': None, 'opentelemetry.sdk': None}; "


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_an_endpoint_without_the_extra_is_refused_at_start_by_key_and_extra(tmp_path: Path) -> None:
    code = WITHOUT_EXTRA + "from server.cli import main; main()"
    ended = run(code, "serve", "--data-dir", str(tmp_path), "--otlp-endpoint", "http://127.0.0.1:4318")
    assert ended.returncode != 0
    assert "otlp_endpoint" in ended.stderr
    assert "flag --otlp-endpoint" in ended.stderr
    assert "pip install 'shira-server[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_an_endpoint_the_server_does_without_the_extra() -> None:
    """FastAPI itself needs OpenTelemetry's API, which sends nothing."""
    code = "import server.api.app, server.engine.client, server.core.tracing as t; t.open_tracing(None, ratio=1.0); "
    ended = run(WITHOUT_EXTRA + code + "print('server.core.otlp' in sys.modules)")
    assert ended.stdout.split() == ["False"], ended.stderr


def test_the_endpoint_may_hold_no_password_and_an_error_does_not_show_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"data_dir": tmp_path, "otlp_endpoint": "http://me:secret@host:4318"}, {})
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_who_traces_nothing_takes_everything_and_keeps_nothing() -> None:
    tracing = open_tracing(None, ratio=1.0)
    assert isinstance(tracing, NoTracing)
    trace = tracing.begin("GET", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
    assert trace is UNTRACED
    trace.add(Phase(name="queue", started_s=1.0, ended_s=2.0))
    trace.describe({"shira.mode": "fused"})
    trace.end("GET /", is_error=False)
    assert (trace.is_recorded, trace.id, trace.response) == (False, None, None)
    tracing.close()


def test_a_log_line_of_a_traced_request_has_its_trace_id() -> None:
    def line() -> dict[str, object]:
        record = logging.makeLogRecord({"msg": "hello"})
        assert add_trace_id(record)
        told: dict[str, object] = json.loads(JsonFormatter().format(record))
        return told

    token = trace_id.set("0af7651916cd43dd8448eb211c80319c")
    assert line()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    trace_id.reset(token)
    assert "trace_id" not in line()
