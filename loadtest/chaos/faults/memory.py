"""Memory that is not there: the server's own budget, its address space, and a limit that the kernel enforces."""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from loadtest.chaos.alias_book import deletion, upload_of
from loadtest.chaos.bases import Upload, saved
from loadtest.chaos.ledger import Outcome
from loadtest.chaos.sender import Sender
from loadtest.chaos.traffic import DEADLINE_MS, of_blend
from loadtest.chaos.trial import Phase, Trial
from tests.e2e.live_server import LiveServer, wait_until

CGROUPS = Path("/sys/fs/cgroup/memory")
SPARSITY = 0.3
NUM_HEAVY = 4
HEADROOM_BYTES = 8 << 20  # above what the server has when the limit falls
MIN_BUDGET_BYTES = 1 << 20


def run(trial: Trial) -> None:
    heavy = [
        saved(trial.base.adapter(seed=900 + number, sparsity=SPARSITY), trial.directory / f"heavy-{number}.safetensors")
        for number in range(NUM_HEAVY)
    ]
    trial.others += heavy
    size = max(upload.path.stat().st_size for upload in heavy)
    with _memory_group() as group:
        options = ("--host-budget-bytes", str(max(MIN_BUDGET_BYTES, 3 * size // 2)))
        with trial.server("data", *options, prefix=group.prefix if group else ()) as live:
            trial.begin(live)
            with (
                trial.phase("budget", f"adapters of {size >> 10} KiB, a host budget for one and a half") as phase,
                trial.load(live),
            ):
                _use_heavy(trial, live, heavy, phase)
            with trial.phase("address space", f"RLIMIT_AS {HEADROOM_BYTES >> 20} MiB above what is used") as phase:
                _in_little_address_space(trial, live, heavy, phase)
            if group is None:
                with trial.phase("memory limit", "not tried: it wants root and control groups of version 1"):
                    pass
            else:
                what = f"cgroup limit {HEADROOM_BYTES >> 20} MiB above what is used"
                with trial.phase("memory limit", what) as phase:
                    _in_little_memory(trial, live, heavy, phase, group)
            trial.finish(live)


def _use_heavy(trial: Trial, live: LiveServer, heavy: list[Upload], phase: Phase) -> None:
    """Uploads each, uses each, and all of them in one blend; then deletes them."""
    fates: Counter[str] = Counter()
    names = {f"heavy-{number}": upload.version for number, upload in enumerate(heavy)}
    blends = [*({name: version} for name, version in names.items()), names]
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        for (name, version), upload in zip(names.items(), heavy, strict=True):
            reply = sender.upload(name, upload.path)
            if reply.outcome is Outcome.ANSWERED:
                trial.book.acknowledge(name, upload_of(version))
            elif reply.outcome is not Outcome.REFUSED:
                trial.book.leave_open(name, upload_of(version))
            fates[f"upload {reply.code or reply.outcome}"] += 1
        for blend in blends:
            reply = sender.generate(trial.base.body(list(blend), deadline_ms=DEADLINE_MS), of_blend(blend))
            fates[f"blend of {len(blend)} {reply.code or reply.outcome}"] += 1
        for name in names:
            reply = sender.delete(name)
            if reply.outcome is Outcome.ANSWERED:
                trial.book.acknowledge(name, deletion)
            elif reply.outcome is not Outcome.REFUSED:
                trial.book.leave_open(name, deletion)
    phase.what += "; " + ", ".join(f"{what}: {count}" for what, count in sorted(fates.items()))


def _in_little_address_space(trial: Trial, live: LiveServer, heavy: list[Upload], phase: Phase) -> None:
    process = live.process.pid
    _, hard = resource.prlimit(process, resource.RLIMIT_AS)
    with _may_die(trial, live, phase), trial.load(live):
        resource.prlimit(process, resource.RLIMIT_AS, (_address_space_of(process) + HEADROOM_BYTES, hard))
        _use_heavy(trial, live, heavy, phase)
        if live.process.poll() is None:
            resource.prlimit(process, resource.RLIMIT_AS, (hard, hard))


def _in_little_memory(trial: Trial, live: LiveServer, heavy: list[Upload], phase: Phase, group: _Group) -> None:
    with _may_die(trial, live, phase), trial.load(live):
        group.limit(group.used_bytes() + HEADROOM_BYTES)
        _use_heavy(trial, live, heavy, phase)
        group.limit(-1)
    phase.what += f"; the limit was hit {group.num_hits()} times"


@contextmanager
def _may_die(trial: Trial, live: LiveServer, phase: Phase) -> Iterator[None]:
    """The server lives on, or dies and comes back intact: which of the two is told."""
    trial.ledger.expect_down()
    yield
    trial.ledger.expect_running()
    wait_until(lambda: live.process.poll() is not None or _is_ready(live))
    code = live.process.poll()
    if code is None:
        phase.what += "; the server lived on"
    else:
        told = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        phase.what += f"; the server died ({told})"
        trial.restart(live, phase)
    trial.check_names(live, lightly=True)


def _is_ready(live: LiveServer) -> bool:
    try:
        return live.client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _address_space_of(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


class _Group:
    """A control group (version 1) of the memory controller. What ``prefix`` runs is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.prefix = ["sh", "-c", f'echo $$ > {path}/cgroup.procs; exec "$@"', "in-group"]

    def limit(self, num_bytes: int) -> None:
        (self._path / "memory.limit_in_bytes").write_text(str(num_bytes))

    def used_bytes(self) -> int:
        """What it cannot do without: not the rest of the page cache, which the kernel can take back."""
        stat = dict(line.split() for line in (self._path / "memory.stat").read_text().splitlines())
        return int(stat["rss"]) + int(stat["mapped_file"])

    def num_hits(self) -> int:
        return int((self._path / "memory.failcnt").read_text())


@contextmanager
def _memory_group() -> Iterator[_Group | None]:
    """None where none can be made: not root, or control groups of version 2."""
    if os.geteuid() != 0 or not (CGROUPS / "memory.limit_in_bytes").exists():
        yield None
        return
    path = CGROUPS / f"shira-chaos-{os.getpid()}"
    path.mkdir()
    try:
        yield _Group(path)
    finally:
        path.rmdir()
