"""Locust as a process of its own, which this one waits for: it patches whatever process it is imported into."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from server.core.errors import ServerError

LOCUST_FILE = Path(__file__).with_name("locustfile.py")
GRACE_S = 180.0  # the last requests are waited for, longer than their deadline
NUM_USERS = 3  # one of each kind
TAIL_CHARS = 2000


class LocustFailed(ServerError):
    pass


def run_locust(folder: Path, *, duration_s: float, core: int | None) -> None:
    """Until the last request of the folder's trace has ended. Raises LocustFailed."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUST_FILE), "--headless", "--only-summary"]
    command += ["--users", str(NUM_USERS), "--spawn-rate", str(NUM_USERS)]
    command += ["--run-dir", str(folder), "--exit-code-on-error", "0"]
    log = folder / "locust.log"
    environment = {**os.environ, "PYTHONPATH": str(LOCUST_FILE.parents[1])}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            code = process.wait(timeout=duration_s + GRACE_S)
        except subprocess.TimeoutExpired as error:
            late = f"locust: not done {GRACE_S:.0f} s after the last request was due"
            raise LocustFailed(f"{late}:\n{_tail(log)}") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise LocustFailed(f"locust: ended with {code}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-TAIL_CHARS:]
