"""Run as a script: kills a writing store at random moments and looks at what is left. Arguments: data directory, number
of rounds, seed. A process of its own, because it forks."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from adapters_store.store import AdapterStore
from adapters_store.store_config import StoreConfig
from adapters_store.tiers.redis_settings import RedisSettings
from tests.adapters_store.small_adapters import same_adapter, small_adapter, upload


def open_store(root: Path) -> AdapterStore:
    store = AdapterStore(StoreConfig(data_dir=root, redis=RedisSettings(mode="off")))
    store.start()
    return store


def write_for_ever(root: Path, first: int, acknowledgements: int) -> NoReturn:
    """Puts n<first>, n<first + 1>, …, and deletes every third of them; each step is told once it returned."""
    store = open_store(root)
    number = first
    while True:
        store.put(upload(small_adapter(mask=number % 3, values=number)), tenant="default", name=f"n{number}")
        os.write(acknowledgements, f"put {number}\n".encode())
        if number % 3 == 0:
            for version in store.delete("default", f"n{number}"):
                os.write(acknowledgements, f"deleted {number}\n".encode())
                store.destroy(version, timeout_s=1)
        number += 1


def killed_writer(root: Path, first: int, life_s: float) -> list[tuple[str, int]]:
    """What a writer acknowledged in ``life_s`` after its first word."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_for_ever(root, first, write_end)
    os.close(write_end)
    select.select([read_end], [], [], 10)
    select.select([], [], [], life_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read_end) as lines:
        return [(what, int(number)) for what, number in (line.split() for line in lines)]


def check_in_a_fork(root: Path, put: set[int], deleted: set[int], unsure: set[int]) -> None:
    """This process must not run torch itself: its threads would not survive the next fork."""
    pid = os.fork()
    if pid == 0:
        try:
            check(root, put, deleted, unsure)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise SystemExit(1)


def check(root: Path, put: set[int], deleted: set[int], unsure: set[int]) -> None:
    store = open_store(root)
    listed = {int(record.name[1:]) for record in store.list_records("default", limit=1_000_000)}
    assert put - deleted - unsure <= listed, f"lost: {put - deleted - listed}"
    assert listed <= put | unsure, f"never acknowledged: {listed - put}"
    assert not listed & deleted, f"came back: {listed & deleted}"
    for number in listed:
        adapter = small_adapter(mask=number % 3, values=number)
        assert store.resolve("default", f"n{number}") == adapter.version
        assert same_adapter(store.export(adapter.version), adapter)
    files = [path for path in (root / "adapters").rglob("*") if path.is_file()]
    num_index_sets = len({number % 3 for number in listed})
    assert len(files) == 2 * len(listed) + num_index_sets, "garbage is left"
    assert not list((root / "tmp").iterdir())
    store.close()


def main(root: Path, num_rounds: int, seed: int) -> None:
    draw = random.Random(seed)
    put: set[int] = set()
    deleted: set[int] = set()
    first = 0
    for _ in range(num_rounds):
        told = killed_writer(root, first, draw.uniform(0.0, 0.15))
        put |= {number for what, number in told if what == "put"}
        deleted |= {number for what, number in told if what == "deleted"}
        last = max(put, default=0)
        check_in_a_fork(root, put, deleted, unsure={last, last + 1})  # killed after the step, before the word
        put |= {last + 1} & _listed(root)
        deleted |= {last} - _listed(root)
        first = last + 2
    print(f"{len(put)} uploads and {len(deleted)} deletes in {num_rounds} lives")


def _listed(root: Path) -> set[int]:
    return {
        int(path.stem[1:]) for path in (root / "catalog").rglob("*.json") if b'"deleted":false' in path.read_bytes()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
