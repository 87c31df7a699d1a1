"""The disk full under load, then to the page: a clear 507, nothing half there, and all well once there is room."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from time import monotonic

from loadtest.chaos.alias_book import deletion, move_to, upload_of
from loadtest.chaos.bases import saved
from loadtest.chaos.ledger import Outcome
from loadtest.chaos.room import PAGE_BYTES, FullDisk, Room, ShortFiles, can_mount, mounted
from loadtest.chaos.sender import Reply, Sender
from loadtest.chaos.traffic import entered
from loadtest.chaos.trial import Phase, Trial
from loadtest.live_server import LiveServer

SPARE_UPLOADS = 40  # the disk holds so many of the adapters at once
OVERHEAD_PAGES = 16  # what an upload writes beside the adapter, twice over: it passes through a scratch file
AGAIN_S = 5.0  # the longest until an upload works again
FULL = "storage_full"


def run(trial: Trial) -> None:
    largest = max(upload.path.stat().st_size for upload in trial.uploads)
    with ExitStack() as stack:
        if can_mount():
            stack.enter_context(mounted(trial.directory / "data", SPARE_UPLOADS * largest + (1 << 20)))
        live = stack.enter_context(trial.server("data"))
        room: Room = FullDisk(live.data_dir) if can_mount() else ShortFiles(live)
        trial.begin(live)
        with trial.phase("disk full under load", f"{room.how}; then room again", may_refuse={FULL}) as phase:
            with trial.load(live):
                trial.hold()
                room.leave(0)
                trial.hold()
                room.give_back()
                _recover(trial, live, phase)
                trial.hold(min(1.0, trial.settings.hold_s))
            trial.check_names(live, lightly=True)
        trial.expect(phase.refusals[FULL] > 0, "the disk was never full")
        most_pages = 2 * -(-largest // PAGE_BYTES) + OVERHEAD_PAGES
        what = f"uploads, moves and deletes with 0 … {most_pages} pages left"
        with trial.phase("disk full to the page", what, may_refuse={FULL, "adapter_not_found"}) as phase:
            _page_by_page(trial, live, room, most_pages, phase)
        if can_mount():
            _start_on_a_full_disk(trial, live, room)
        trial.finish(live)


def _start_on_a_full_disk(trial: Trial, live: LiveServer, room: Room) -> None:
    what = "kill −9, started again without a page left, load"
    with trial.phase("started with the disk full", what, may_refuse={FULL}) as phase:
        room.leave(0)
        trial.ledger.expect_down()
        live.kill()
        trial.restart(live, phase)
        room.leave(0)
        with trial.load(live):
            trial.hold(min(1.0, trial.settings.hold_s))
        room.give_back()
        trial.check_names(live, lightly=True)


def _recover(trial: Trial, live: LiveServer, phase: Phase) -> None:
    started_s = monotonic()
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        while (
            _upload(trial, sender, "recovered", 0).outcome is not Outcome.ANSWERED and monotonic() - started_s < AGAIN_S
        ):
            trial.hold(0.05)
    trial.recovered(phase, monotonic() - started_s, limit_s=AGAIN_S)


def _page_by_page(trial: Trial, live: LiveServer, room: Room, most_pages: int, phase: Phase) -> None:
    """Each write of an upload, and that of a name alone, is the one that finds no room."""
    fates: Counter[str] = Counter()
    fresh = saved(trial.base.adapter(seed=500, sparsity=trial.base.sparsity), trial.directory / "fresh.safetensors")
    trial.others.append(fresh)  # in the store for as long as its name, so that every part is written each time
    with Sender(str(live.client.base_url), trial.ledger) as sender:
        old, new = trial.uploads[0].version, trial.uploads[1].version
        for number in (0, 1):
            _upload(trial, sender, "moved", number)
            _upload(trial, sender, "deleted", number)
        for pages in range(most_pages + 1):
            room.leave(pages * PAGE_BYTES)
            name = f"pages-{pages}"
            for what, reply in (
                ("upload", entered(trial.book, name, upload_of(fresh.version), sender.upload(name, fresh.path))),
                (
                    "move",
                    entered(
                        trial.book, "moved", move_to((old, new)[pages % 2]), sender.move("moved", (old, new)[pages % 2])
                    ),
                ),
                ("delete", entered(trial.book, "deleted", deletion, sender.delete("deleted"))),
            ):
                fates[f"{what} {reply.code or reply.outcome}"] += 1
            room.give_back()
            trial.check_names(live, lightly=True)
            entered(trial.book, name, deletion, sender.delete(name))
            _upload(trial, sender, "deleted", 0)
    trial.expect(
        fates["upload answered"] > 0 and fates[f"upload {FULL}"] > 0, f"expected both fates of uploads, got {fates}"
    )
    trial.expect(fates[f"move {FULL}"] > 0, "the disk was never full for the record of a name")
    phase.what += "; " + ", ".join(f"{what}: {count}" for what, count in sorted(fates.items()))


def _upload(trial: Trial, sender: Sender, name: str, number: int) -> Reply:
    upload = trial.uploads[number]
    return entered(trial.book, name, upload_of(upload.version), sender.upload(name, upload.path))
