"""Run as a script: a store dies at its first step that touches the disk, then at its second, and so on; each time a new
one looks at what is left. A process of its own, because it forks. Argument: an empty directory."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters_store.adapter import Adapter
from adapters_store.errors import AdapterNotFound
from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload

MAX_STEPS = 500


def open_store(root: Path) -> AdapterStore:
    store = AdapterStore(StoreConfig(data_dir=root, redis=RedisSettings(mode="off")))
    store.start()
    return store


def prepare(root: Path) -> None:
    store = open_store(root)
    store.put(upload(small_adapter(values=0)), tenant="default", name="moved")
    store.put(upload(small_adapter(values=1)), tenant="default", name="deleted")
    store.close()


def live(root: Path, tell: Callable[[str], None]) -> None:
    """Two changes, each told once it returned."""
    store = open_store(root)
    store.put(upload(small_adapter(mask=1, values=2)), tenant="default", name="moved")
    tell("moved")
    versions = store.delete("default", "deleted")
    tell("deleted")
    for version in versions:
        store.destroy(version, timeout_s=1)


def die_at(step: int) -> None:
    """From now on the ``step``-th call that changes the disk is the last: half done if a write, else not at all."""
    num_calls = 0

    def tripwire(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls == step:
                if name == "write":
                    fd, data = arguments
                    original(fd, memoryview(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, call)

    for name in ("write", "rename", "unlink", "mkdir"):
        tripwire(os, name)


def in_a_fork(work: Callable[[Callable[[str], None]], None]) -> tuple[int, set[str]]:
    """The exit status and what was told. This process itself runs no torch: its threads would not survive a fork."""
    read_end, write_end = os.pipe()
    write = os.write

    def tell(word: str) -> None:
        write(write_end, f"{word}\n".encode())

    pid = os.fork()
    if pid == 0:
        try:
            work(tell)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        told = {line.strip() for line in lines}
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told


def check(root: Path, told: set[str]) -> None:
    store = open_store(root)
    moved = resolved(store, "moved", [small_adapter(values=0), small_adapter(mask=1, values=2)])
    deleted = resolved(store, "deleted", [small_adapter(values=1), None])
    assert moved == 1 or "moved" not in told
    assert deleted == 1 or "deleted" not in told
    num_versions = 1 + moved + (1 - deleted)
    num_index_sets = 1 + moved
    files = [path for path in (root / "adapters").rglob("*") if path.is_file()]
    assert len(files) == 2 * num_versions + num_index_sets, f"garbage: {files}"
    assert not list((root / "tmp").iterdir())
    store.close()


def resolved(store: AdapterStore, name: str, choices: list[Adapter | None]) -> int:
    """Which of the two states the name is in; its bytes must be those of the version it points at."""
    try:
        record = store.get_record("default", name)
    except AdapterNotFound:
        return choices.index(None)
    for number, choice in enumerate(choices):
        if choice is not None and choice.version == record.version:
            assert same_adapter(store.export(record.version), choice)
            return number
    raise AssertionError(f"{name} points at {record.version}")


def main(root: Path) -> None:
    def life(data: Path, step: int) -> tuple[int, set[str]]:
        def work(tell: Callable[[str], None]) -> None:
            die_at(step)
            live(data, tell)

        return in_a_fork(work)

    template = root / "template"
    assert in_a_fork(lambda _: prepare(template)) == (0, set())
    for step in range(1, MAX_STEPS):
        data = root / "data"
        shutil.copytree(template, data)
        status, told = life(data, step)
        assert status in (0, -signal.SIGKILL), f"step {step}: {status}"
        checked, _ = in_a_fork(lambda _, data=data, told=told: check(data, told))  # type: ignore[misc]
        assert checked == 0, f"step {step}, told {sorted(told)}"
        shutil.rmtree(data)
        if status == 0:
            print(f"survived a death at each of {step - 1} steps")
            return
    raise AssertionError("it never ends")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
