"""The checker of ``make chaos`` finds what is lost: defects made on purpose, each reported for what it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from loadtest.chaos import audit
from loadtest.chaos.alias_book import ABSENT, AliasBook, AliasState, deletion, move_to, upload_of
from loadtest.chaos.bases import tiny
from loadtest.chaos.faults import FAULTS, clock_jumps, memory
from loadtest.chaos.ledger import Ledger, Outcome
from loadtest.chaos.report import Report, table, write_report
from loadtest.chaos.sender import Sender, nothing_wrong
from loadtest.chaos.store_scan import scan_store
from loadtest.chaos.traffic import of_blend
from loadtest.chaos.trial import Settings, Trial
from loadtest.chaos.wall_clock import can_build
from loadtest.live_server import LiveServer

DONE = b"data: [DONE]\n\n"
OK_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@contextmanager
def server_that_says(answer: bytes) -> Iterator[str]:
    """To the one request it takes; then it hangs up.

    The request is read whole first: a socket closed with bytes unread resets the connection, and the answer is gone.
    """

    class Saying(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.wfile.write(answer)

    with HTTPServer(("127.0.0.1", 0), Saying) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


def said(status: int, body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(text), text)


def outcome_of(answer: bytes, ledger: Ledger, *, stream: bool = False) -> Outcome:
    with server_that_says(answer) as url, Sender(url, ledger) as sender:
        return sender.generate({"stream": stream}, of_blend({"a": "v1"})).outcome


def error(code: str) -> dict[str, object]:
    return {"error": {"type": "server_error", "code": code, "message": "m", "param": None}}


def receipt(version: str) -> dict[str, object]:
    return {"text": "", "receipt": {"adapters": [{"name": "a", "version": version}]}}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said(200, receipt("v1")), Outcome.ANSWERED),
        (said(200, receipt("v2")), Outcome.WRONG),
        (said(507, error("storage_full")), Outcome.REFUSED),
        (said(503, error("storage_full")), Outcome.WRONG),
        (said(507, error("made_up")), Outcome.WRONG),
        (said(500, error("internal_error")), Outcome.WRONG),
        (said(500, error("step_failed")), Outcome.WRONG),
        (said(500, error("switch_failed")), Outcome.WRONG),
        (said(503, "busy"), Outcome.WRONG),
        (b"", Outcome.LOST),
    ],
)
def test_an_answer_is_what_was_asked_for_or_a_documented_error_or_it_is_told(answer: bytes, outcome: Outcome) -> None:
    ledger = Ledger()
    assert outcome_of(answer, ledger) is outcome
    counts, _ = ledger.take_counts()
    assert counts == {outcome: 1}
    assert bool(ledger.incidents) == (outcome in (Outcome.LOST, Outcome.WRONG))


def test_a_stream_that_ends_before_its_end_is_lost() -> None:
    ledger = Ledger()
    event = b'data: {"text": "x"}\n\n'
    last = b"data: " + json.dumps(receipt("v1")).encode() + b"\n\n"
    refusal = b"data: " + json.dumps(error("draining")).encode() + b"\n\n"
    assert outcome_of(OK_STREAM + event + last + DONE, ledger, stream=True) is Outcome.ANSWERED
    assert outcome_of(OK_STREAM + event + refusal, ledger, stream=True) is Outcome.REFUSED
    assert outcome_of(OK_STREAM + event, ledger, stream=True) is Outcome.LOST
    assert outcome_of(OK_STREAM + event + last, ledger, stream=True) is Outcome.LOST


def test_only_a_fault_that_is_on_excuses_a_connection_that_ends() -> None:
    ledger = Ledger()

    def fate(*, sent_at: float = 1.0, was_connected: bool = True, was_taken: bool = False) -> Outcome:
        return ledger.of_broken_connection(sent_at=sent_at, was_connected=was_connected, was_taken=was_taken)

    assert fate(was_connected=False) is Outcome.LOST
    ledger.expect_down()
    assert fate() is Outcome.CUT
    assert fate(was_connected=False) is Outcome.TURNED_AWAY
    ledger.expect_running()
    ledger.expect_stopping()
    assert fate() is Outcome.LOST  # sent long before the signal
    assert fate(sent_at=float("inf")) is Outcome.TURNED_AWAY
    assert fate(sent_at=float("inf"), was_taken=True) is Outcome.LOST


def test_a_request_whose_answer_had_begun_is_lost_even_if_it_came_after_the_signal() -> None:
    ledger = Ledger()
    ledger.expect_stopping()
    short = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"
    assert outcome_of(OK_STREAM + b'data: {"text": "x"}\n\n', ledger, stream=True) is Outcome.LOST
    assert outcome_of(short, ledger) is Outcome.LOST
    assert outcome_of(b"", ledger) is Outcome.TURNED_AWAY


def test_what_is_gone_counts_once_however_often_one_looks_and_is_no_request() -> None:
    ledger = Ledger()
    ledger.note(Outcome.ANSWERED)
    for _ in range(3):
        ledger.miss("x", "x: expected v1, found nothing")
    counts, _ = ledger.take_counts()
    assert counts == {Outcome.ANSWERED: 1, Outcome.GONE: 1}
    assert counts.sent == 1
    assert ledger.incidents == ["gone: x: expected v1, found nothing"]


def test_a_change_that_was_cut_may_have_happened_or_not_and_an_acknowledged_one_has() -> None:
    book = AliasBook()
    book.acknowledge("x", upload_of("v1"))
    book.leave_open("x", upload_of("v2"))
    one, both = AliasState(version="v1", history=("v1",)), AliasState(version="v2", history=("v1", "v2"))
    assert book.states("x") == {one, both}
    assert not book.observe("x", ABSENT)
    assert book.observe("x", both)
    assert not book.observe("x", one)  # it was seen to have happened
    book.acknowledge("x", move_to("v1"))
    assert book.certain("x") == AliasState(version="v1", history=("v1", "v2"))
    book.acknowledge("x", deletion)
    assert not book.observe("x", both)
    assert book.observe("x", ABSENT)


def test_a_revision_that_is_not_above_the_one_before_is_told() -> None:
    book = AliasBook()
    assert [book.observe_revision("x", revision) for revision in (1, 2, 2, 1)] == [True, True, False, False]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    directory = tmp_path_factory.mktemp("checker")
    return Trial("defect", tiny(directory), directory / "trial", Settings())


@pytest.fixture(scope="module")
def live(trial: Trial) -> Iterator[LiveServer]:
    with trial.server("data") as live:
        trial.begin(live)
        yield live


def uploaded(trial: Trial, live: LiveServer, name: str, number: int) -> None:
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        assert sender.upload(name, trial.uploads[number].path, nothing_wrong).outcome is Outcome.ANSWERED
    trial.book.acknowledge(name, upload_of(trial.uploads[number].version))


def lost(trial: Trial, live: LiveServer) -> list[str]:
    return list(audit.missing(live, trial.book, trial.uploads, dice=None).values())


@pytest.mark.slow
def test_what_is_taken_away_behind_the_ledgers_back_is_reported_as_lost(trial: Trial, live: LiveServer) -> None:
    uploaded(trial, live, "taken", 1)
    uploaded(trial, live, "moved", 2)
    uploaded(trial, live, "revived", 3)
    trial.book.acknowledge("revived", deletion)
    live.client.delete("/adapters/revived").raise_for_status()
    assert lost(trial, live) == []
    live.client.delete("/adapters/taken").raise_for_status()
    live.push("moved", trial.uploads[1].path)
    live.push("revived", trial.uploads[1].path)
    live.push("unknown", trial.uploads[1].path)
    problems = lost(trial, live)
    for name in ("taken", "moved", "revived"):
        assert any(problem.startswith(f"{name}: expected one of") for problem in problems), problems
    assert any(problem.startswith("the list says") and "unknown" in problem for problem in problems)
    trial.check_names(live)
    counts, _ = trial.ledger.take_counts()
    assert counts[Outcome.GONE] >= 4
    for name in ("taken", "moved", "revived", "unknown"):
        live.client.delete(f"/adapters/{name}")
        trial.book.possible.pop(name, None)


FORGETFUL = """
import adapters_store.catalog
adapters_store.catalog.write_durably = lambda *_, **__: None
"""


@pytest.mark.slow
def test_a_server_that_acknowledges_what_it_did_not_write_is_found_out_by_a_kill(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: load, SIGKILL, restart, audit; the server keeps names in memory alone."""
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    forgetful = Trial("sigkill", trial.base, tmp_path / "trial", Settings(num_kills=1, hold_s=0.5))
    forgetful.run(FAULTS["sigkill"])
    assert any(problem.startswith("gone: stable-0: expected one of") for problem in forgetful.problems)
    assert sum(phase.counts[Outcome.GONE] for phase in forgetful.phases) >= len(forgetful.stable)


BY_THE_WALL_CLOCK = """
import time
import server.core.clock
server.core.clock.MonotonicClock.now = lambda _: time.time()
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_build(), reason="the shim that shifts the server's clock wants a C compiler")
def test_a_server_whose_deadlines_go_by_the_wall_clock_is_found_out_by_a_jump(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BY_THE_WALL_CLOCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(clock_jumps, "JUMPS", {"+1 h": clock_jumps.HOUR_S})
    late = Trial("clock", trial.base, tmp_path / "trial", Settings(hold_s=0.5))
    late.run(FAULTS["clock"])
    assert any(problem.startswith("clock +1 h: refused") for problem in late.problems), late.problems


def test_a_refusal_that_the_phase_does_not_allow_is_a_broken_law(trial: Trial, tmp_path: Path) -> None:
    strict = Trial("defect", trial.base, tmp_path, Settings())
    for may_refuse in ({"draining"}, set[str]()):
        with strict.phase("stopping", "on purpose", may_refuse=may_refuse):
            strict.ledger.note(Outcome.REFUSED, "draining")
    assert strict.problems == ["stopping: refused {'draining': 1}, expected nothing"]


class NoLimit:
    """``fall`` limits nothing, cuts one connection and makes one request late."""

    name, how, slows = "no limit", "on purpose", False

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def fall(self) -> None:
        self._ledger.note(Outcome.CUT)
        self._ledger.note(Outcome.REFUSED, "deadline_exceeded")

    def lift(self) -> None:
        pass

    def num_hits(self) -> int:
        return 0


@pytest.mark.slow
def test_a_limit_that_was_never_reached_and_connections_that_end_without_a_death_are_told(
    trial: Trial, live: LiveServer
) -> None:
    num_before = len(trial.problems)
    memory.run_short(trial, live, [], NoLimit(trial.ledger))
    refused, *others = trial.problems[num_before:]
    assert refused.startswith("no limit: refused {'deadline_exceeded': 1}, expected")
    assert others == [
        "no limit: the limit was never reached",
        "no limit: the server lived on, and 1 connections ended or could not be made",
    ]
    del trial.problems[num_before:]


@pytest.mark.slow
def test_another_answer_or_digest_is_reported(trial: Trial, live: LiveServer) -> None:
    before = audit.describe(live, trial.base, ["stable-0"])
    assert audit.differences(before, before) == []
    other = audit.Before(digest="sha256:0", answers={**before.answers} | {"stable-0": "something else"})
    assert len(audit.differences(other, before)) == 2


@pytest.mark.slow
def test_a_file_that_is_gone_spoilt_or_left_behind_is_found_and_the_report_says_so(
    trial: Trial, live: LiveServer, tmp_path: Path
) -> None:
    assert live.stop() == 0
    assert scan_store(live.data_dir) == []
    gone, spoilt, *_ = sorted((live.data_dir / "adapters" / "values").iterdir())
    gone.unlink()
    data = bytearray(spoilt.read_bytes())
    data[-1] ^= 1
    spoilt.chmod(0o644)
    spoilt.write_bytes(data)
    (live.data_dir / "tmp" / "half").touch()
    problems = scan_store(live.data_dir)
    signs = ("a file is missing", "do not match", "tmp/half was left behind")  # the first two of every name they are in
    assert all(any(sign in problem for problem in problems) for sign in signs), "\n".join(problems)
    assert all(any(sign in problem for sign in signs) for problem in problems), "\n".join(problems)
    trial.problems += problems
    with trial.phase("broken", "on purpose"):
        trial.ledger.note(Outcome.LOST, "an answer that was dropped")
        trial.ledger.note(Outcome.TURNED_AWAY)
    report = Report(seed=0, trials=[trial])
    assert "a file is missing" in " ".join(report.problems)
    write_report(report, tmp_path)
    told = (tmp_path / "report.md").read_text()
    assert "1 lost, 0 gone, 0 wrong; beside them 1 found no connection while it was down" in told
    assert f"; laws broken: {len(trial.problems)}" in told
    assert "tmp/half" in told
    assert json.loads((tmp_path / "report.json").read_text())["trials"][0]["phases"][-1]["lost"] == 1
    assert "| broken" in table([trial])
