from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.embedded import MAX_SOCKET_PATH_BYTES, EmbeddedValkey
from adapters_store.tiers.redis_settings import MIB, RedisSettings
from tests.adapters_store.replicas import is_listening, is_up, wait_until
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path, max_memory_bytes=16 * MIB)
    yield server
    server.close()


def pid_of(server: EmbeddedValkey) -> int:
    with Redis(unix_socket_path=str(server.socket_path)) as client:
        return int(client.info("server")["process_id"])


def is_running(pid: int) -> bool:
    """False also for a process that ended and was not yet collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_it_listens_on_a_private_socket_only_and_saves_nothing(server: EmbeddedValkey, tmp_path: Path) -> None:
    server.ensure_running()
    with Redis(unix_socket_path=str(server.socket_path)) as client:
        config = client.config_get("*")
        assert isinstance(config, dict)
        assert (config["port"], config["save"], config["appendonly"]) == ("0", "", "no")
        assert int(config["maxmemory"]) == 16 * MIB
    assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
    server.close()
    assert list(tmp_path.iterdir()) == []


def test_a_running_server_is_left_alone_and_a_dead_one_replaced(server: EmbeddedValkey) -> None:
    server.ensure_running()
    first = pid_of(server)
    server.ensure_running()
    assert pid_of(server) == first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_listening(server.socket_path), what="the server's end")
    server.ensure_running()
    assert pid_of(server) != first


def test_a_stopped_server_counts_as_running(server: EmbeddedValkey) -> None:
    server.ensure_running()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    server.ensure_running()
    os.kill(pid, signal.SIGCONT)
    assert pid_of(server) == pid


def test_close_ends_the_server_also_a_stopped_one(server: EmbeddedValkey) -> None:
    server.ensure_running()
    pid = pid_of(server)
    os.kill(pid, signal.SIGSTOP)
    server.close()
    assert not is_running(pid)


def test_a_stale_socket_is_replaced(server: EmbeddedValkey) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket_path))
    server.ensure_running()
    assert pid_of(server)


def test_a_socket_path_too_long_for_the_kernel_falls_back_to_a_private_directory(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    server = EmbeddedValkey(folder, max_memory_bytes=16 * MIB)
    try:
        server.ensure_running()
        assert len(os.fsencode(server.socket_path)) <= MAX_SOCKET_PATH_BYTES
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
        assert EmbeddedValkey(folder, max_memory_bytes=16 * MIB).socket_path == server.socket_path
        server.socket_path.parent.chmod(0o755)
        with pytest.raises(PermissionError, match="not a private directory"):
            EmbeddedValkey(folder, max_memory_bytes=16 * MIB)
    finally:
        server.close()
        server.socket_path.parent.rmdir()


_OWNER = """
import sys
from pathlib import Path
from adapters_store.tiers.embedded import EmbeddedValkey
server = EmbeddedValkey(Path(sys.argv[1]), max_memory_bytes=1 << 24)
server.ensure_running()
print("running", flush=True)
sys.stdin.read()
"""


def test_a_kill_of_the_owner_leaves_no_orphan(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, max_memory_bytes=16 * MIB)
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"running\n"
        pid = pid_of(server)
        assert is_running(pid)
        owner.kill()
        owner.wait(10)
        wait_until(lambda: not is_running(pid), what="the server's end after its owner's")


def test_a_store_restarts_its_server_when_it_dies_and_stops_it_when_it_closes(tmp_path: Path) -> None:
    settings = RedisSettings(mode="embedded", heartbeat_s=0.03, max_backoff_s=0.1)
    store = AdapterStore(StoreConfig(data_dir=tmp_path, redis=settings))
    store.start()
    try:
        assert is_up(store)
        socket_path = tmp_path / "redis" / "valkey.sock"
        with Redis(unix_socket_path=str(socket_path)) as client:
            first = int(client.info("server")["process_id"])
        os.kill(first, signal.SIGKILL)
        adapter = small_adapter()
        store.put(upload(adapter), tenant="default", name="pirate")
        held = store.acquire(adapter.version)
        assert same_adapter(held, adapter)
        store.release(held)
        wait_until(lambda: _pid_or_none(socket_path) not in (None, first), what="another server")
        wait_until(lambda: is_up(store), what="the link up again")
        second = _pid_or_none(socket_path)
        assert second is not None
        with Redis(unix_socket_path=str(socket_path)) as client:
            wait_until(lambda: bool(client.keys("*blob:manifest:*")), what="the adapter offered anew")
    finally:
        store.close()
    assert not is_running(second)


def _pid_or_none(socket_path: Path) -> int | None:
    try:
        with Redis(unix_socket_path=str(socket_path)) as client:
            return int(client.info("server")["process_id"])
    except (RedisError, OSError):
        return None
