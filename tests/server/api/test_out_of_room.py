"""A machine without disk or memory for a request says so in a code of its own; found by ``make chaos``."""

from __future__ import annotations

import errno
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from server.api.workers import Workers
from server.core.errors import OutOfMemory
from tests.adapters_store.small_adapters import small_adapter
from tests.server.api.rig import error_of, native_file, rig
from tests.server.fakes import FINGERPRINT

pytestmark = pytest.mark.anyio


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Of this process; the kernel refuses the rest, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_an_upload_that_fails_at_its_last_flush_is_told_that_the_disk_is_full(tmp_path: Path) -> None:
    """Closing the file tried to write the rest again, and that error, a bare 500, took the place of the first."""
    data = native_file(tmp_path, small_adapter(base=FINGERPRINT))
    async with rig(tmp_path) as server:
        with files_of_at_most(0):
            refused = await server.client.post("/adapters", data={"name": "a"}, files={"file": data})
        assert error_of(refused, 507)["code"] == "storage_full"
        assert list((server.services.config.data_dir / "scratch").iterdir()) == []
        again = await server.client.post("/adapters", data={"name": "a"}, files={"file": data})
        assert again.status_code == 201


async def test_a_disk_without_room_for_a_folder_is_told_as_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a transfer was made outside of what turns the disk's refusal into 507: it was a bare 500."""
    data = native_file(tmp_path, small_adapter(base=FINGERPRINT))
    async with rig(tmp_path) as server:
        await server.client.post("/adapters", data={"name": "a"}, files={"file": data})

        def refuse(**_: object) -> str:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        for refused in (
            await server.client.post("/adapters", data={"name": "b"}, files={"file": data}),
            await server.client.get("/adapters/a/content"),
        ):
            assert error_of(refused, 507)["code"] == "storage_full"


def allocate_too_much() -> None:
    torch.empty(1 << 60, dtype=torch.int8)


def map_too_much() -> None:
    raise RuntimeError("unable to mmap 6978328 bytes from file </dev/fd/14>: Cannot allocate memory (12)")


def start_a_thread_too_many() -> None:
    raise RuntimeError("can't start new thread")


def ask_the_kernel_for_too_much() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def build_too_long_a_list() -> None:
    bytearray(1 << 62)


@pytest.mark.parametrize(
    "work",
    [allocate_too_much, map_too_much, start_a_thread_too_many, ask_the_kernel_for_too_much, build_too_long_a_list],
)
async def test_however_memory_is_refused_the_client_is_told_so(work: object) -> None:
    """It was a bare 500, which says that the server has a defect."""
    assert callable(work)
    with pytest.raises(OutOfMemory):
        await Workers().heavy(work)


async def test_an_upload_that_is_stored_is_answered_even_if_no_thread_can_be_had_to_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told out_of_memory, though the name had been given; and its files stayed until the next start."""
    data = native_file(tmp_path, small_adapter(base=FINGERPRINT))
    quick = Workers.quick

    async def refuse_to_clean_up(workers: Workers, call: Callable[..., object], *args: Any, **more: Any) -> object:
        if call is shutil.rmtree:
            raise OutOfMemory("the server has no memory for this now; try again later")
        return await quick(workers, call, *args, **more)

    async with rig(tmp_path) as server:
        monkeypatch.setattr(Workers, "quick", refuse_to_clean_up)
        answer = await server.client.post("/adapters", data={"name": "a"}, files={"file": data})
        assert answer.status_code == 201
        assert list((server.services.config.data_dir / "scratch").iterdir()) == []


async def test_a_version_is_let_go_even_if_no_thread_can_be_had_when_its_request_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed held for as long as the server ran: every delete of it was told that it is in use."""
    quick = Workers.quick

    async def work_once(workers: Workers, call: Callable[..., object], *args: Any, **more: Any) -> object:
        monkeypatch.setattr(Workers, "quick", refuse)
        return await quick(workers, call, *args, **more)

    async def refuse(*_: object) -> object:
        raise OutOfMemory("the server has no memory for this now; try again later")

    async with rig(tmp_path) as server:
        await server.push("a")
        monkeypatch.setattr(Workers, "quick", work_once)
        assert (await server.generate(adapter="a")).status_code == 200
        assert server.store.describe()["claims"] == {}
        monkeypatch.setattr(Workers, "quick", quick)
        assert (await server.client.delete("/adapters/a")).status_code == 200


async def test_other_errors_of_work_are_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        await Workers().heavy(lambda: 1 // 0)
