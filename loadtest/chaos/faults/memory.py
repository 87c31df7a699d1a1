"""Memory that is not there: the server's own budget, its address space, and a limit that the kernel enforces."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence

import httpx

from loadtest.chaos.alias_book import deletion, upload_of
from loadtest.chaos.bases import Upload, saved
from loadtest.chaos.ledger import Outcome
from loadtest.chaos.memory_limits import AddressSpace, Limit, memory_group
from loadtest.chaos.sender import Sender
from loadtest.chaos.traffic import DEADLINE_MS, entered, of_blend
from loadtest.chaos.trial import Phase, Trial
from loadtest.live_server import LiveServer, wait_until

SPARSITY = 0.3
NUM_HEAVY = 4
MIN_BUDGET_BYTES = 1 << 20
OVER_BUDGET = "budget_exceeded"
NO_MEMORY = "out_of_memory"
SHORT_OF_IT = {OVER_BUDGET, NO_MEMORY, "adapter_unavailable", "adapter_not_found"}  # the last: its upload was refused
DYING = {"engine_died", "draining"}
LATE = {"deadline_exceeded", "deadline_unreachable"}


def run(trial: Trial) -> None:
    heavy = [
        saved(trial.base.adapter(seed=900 + number, sparsity=SPARSITY), trial.directory / f"heavy-{number}.safetensors")
        for number in range(NUM_HEAVY)
    ]
    trial.others += heavy
    size = max(upload.path.stat().st_size for upload in heavy)
    with memory_group() as group:
        options = ("--host-budget-bytes", str(max(MIN_BUDGET_BYTES, 3 * size // 2)))
        with trial.server("data", *options, prefix=group.prefix if group else ()) as live:
            trial.begin(live)
            what = f"adapters of {size >> 10} KiB, a host budget for one and a half"
            with trial.phase("budget", what, may_refuse={OVER_BUDGET}) as phase, trial.load(live):
                _use_heavy(trial, live, heavy, phase)
            trial.expect(phase.refusals[OVER_BUDGET] > 0, "the budget was never exceeded")
            run_short(trial, live, heavy, AddressSpace(live))
            if group is None:
                with trial.phase("memory limit", "not tried: it wants root and control groups of version 1"):
                    pass
            else:
                run_short(trial, live, heavy, group)
            trial.finish(live)


def run_short(trial: Trial, live: LiveServer, heavy: Sequence[Upload], limit: Limit) -> None:
    """Under the limit the server refuses and lives on, with every connection, or it dies and comes back intact: which
    of the two is told. The limit must have been reached."""
    may_refuse = SHORT_OF_IT | LATE if limit.slows else SHORT_OF_IT
    with trial.phase(limit.name, limit.how, may_refuse=may_refuse) as phase:
        num_hits = limit.num_hits()
        trial.ledger.expect_down()
        with trial.load(live):
            limit.fall()
            _use_heavy(trial, live, heavy, phase)
            limit.lift()
        trial.ledger.expect_running()
        num_hits = limit.num_hits() - num_hits
        wait_until(lambda: live.process.poll() is not None or _is_ready(live))
        code = live.process.poll()
        if code is None:
            phase.what += "; the server lived on"
        else:
            told = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            phase.what += f"; the server died ({told})"
            phase.may_refuse = may_refuse | DYING
            trial.restart(live, phase)
        if num_hits:
            phase.what += f"; the limit was hit {num_hits} times"
        trial.check_names(live, lightly=True)
    is_reached = code is not None or num_hits > 0 or phase.refusals[NO_MEMORY] > 0
    trial.expect(is_reached, f"{limit.name}: the limit was never reached")
    num_broken = phase.counts[Outcome.CUT] + phase.counts[Outcome.TURNED_AWAY]
    trial.expect(
        code is not None or num_broken == 0,
        f"{limit.name}: the server lived on, and {num_broken} connections ended or could not be made",
    )


def _use_heavy(trial: Trial, live: LiveServer, heavy: Sequence[Upload], phase: Phase) -> None:
    """Uploads each, uses each, and all of them in one blend; then deletes them."""
    fates: Counter[str] = Counter()
    names = {f"heavy-{number}": upload.version for number, upload in enumerate(heavy)}
    blends = [*({name: version} for name, version in names.items()), names]
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        for (name, version), upload in zip(names.items(), heavy, strict=True):
            reply = entered(trial.book, name, upload_of(version), sender.upload(name, upload.path))
            fates[f"upload {reply.code or reply.outcome}"] += 1
        for blend in blends:
            reply = sender.generate(trial.base.body(list(blend), deadline_ms=DEADLINE_MS), of_blend(blend))
            fates[f"blend of {len(blend)} {reply.code or reply.outcome}"] += 1
        for name in names:
            entered(trial.book, name, deletion, sender.delete(name))
    phase.what += "; " + ", ".join(f"{what}: {count}" for what, count in sorted(fates.items()))


def _is_ready(live: LiveServer) -> bool:
    try:
        return live.client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
