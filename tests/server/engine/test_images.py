"""Images go through the same queue, turns and receipts as texts; a denoising step counts as a token."""

from __future__ import annotations

import asyncio

import pytest

from adapters_store.blend import BASE
from server.core.errors import DeadlineExceeded, RequestRejected, StepFailed
from server.core.requests import ImageUsage, Picture
from server.engine.fairness import NEW_TOKEN
from server.engine.mailbox import Mailbox
from server.engine.messages import ImageEvent, ProgressEvent
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend
from tests.server.engine.painter import FakePainter

A, B, C = (make_blend(name) for name in "abc")
PREVIEW = Picture(width=1, height=1, rgb=b"abc")


def desk_of(painter: FakePainter, *, max_batch: int = 32) -> Desk:
    return Desk(painter=painter, schedule="fused", quantum_steps=1, max_batch=max_batch)


def test_progress_is_told_step_by_step_and_the_image_last() -> None:
    desk = desk_of(FakePainter())
    request = desk.ask_image(A, num_steps=3)
    desk.run_out()

    *progress, end = desk.clients[request].events
    assert progress == [ProgressEvent(num_done=done, num_steps=3) for done in (1, 2, 3)]
    assert isinstance(end, ImageEvent)
    assert (end.picture.rgb, end.finish_reason, end.usage) == (b"rgb", "stop", ImageUsage(num_steps=3))
    assert end.receipt.blend_key == A.key
    assert desk.value("shira_images_total") == 1
    assert desk.value("shira_step_seconds_count", mode="fused", phase="denoise") == 3


def test_an_image_ends_when_the_runner_says_so_not_after_the_steps_that_were_asked_for() -> None:
    desk = desk_of(FakePainter(num_more=2))
    request = desk.ask_image(num_steps=3)
    desk.run_out()

    end = desk.clients[request].events[-1]
    assert isinstance(end, ImageEvent)
    assert end.usage.num_steps == 5


def test_images_of_different_blends_take_turns_and_those_of_one_blend_step_together() -> None:
    painter = FakePainter()
    desk = desk_of(painter)
    of_a = [desk.ask_image(A) for _ in range(2)]
    [of_b, of_c] = [desk.ask_image(blend) for blend in (B, C)]
    desk.turns(7)  # in the first one bytes are asked for

    assert painter.steps == [of_a, [of_b], [of_c]] * 2


def test_switches_within_a_step_are_on_the_receipt() -> None:
    desk = desk_of(FakePainter(switch_s=0.25))
    request = desk.ask_image(A, num_steps=3)
    desk.run_out()

    end = desk.clients[request].events[-1]
    assert isinstance(end, ImageEvent)
    assert end.receipt.switch_ms == pytest.approx(3 * 250 + 1)  # and one before the first step


def test_an_image_that_fails_fails_alone() -> None:
    painter = FakePainter()
    desk = desk_of(painter)
    bad, refused, good = (desk.ask_image() for _ in range(3))
    painter.failing = {bad: ValueError("no numbers"), refused: RequestRejected("too wide")}
    desk.run_out()

    assert isinstance(desk.clients[bad].error, StepFailed)
    assert isinstance(desk.clients[refused].error, RequestRejected)  # of the client, not of the server
    assert isinstance(desk.clients[good].events[-1], ImageEvent)
    assert not painter.live


def test_an_image_whose_deadline_passes_between_steps_is_dropped() -> None:
    painter = FakePainter()
    desk = desk_of(painter)
    request = desk.ask_image(num_steps=100, deadline_s=desk.clock.now() + 0.05)
    desk.turns(10)

    assert isinstance(desk.clients[request].error, DeadlineExceeded)
    assert len(painter.steps) < 10
    assert not painter.live


def test_a_step_of_a_large_image_is_charged_as_much_as_it_weighs() -> None:
    desk = desk_of(FakePainter())
    desk.ask_image(client="small", num_steps=50)
    desk.ask_image(client="large", num_steps=50, token_cost=4.0)
    desk.turns(10)

    ranks = {sequence.request.client: desk.scheduler.rank(sequence)[0] for sequence in desk.scheduler.sequences}
    assert ranks["large"] == 4 * ranks["small"] > 4 * 9 * NEW_TOKEN


def test_images_wait_where_seats_are_taken() -> None:
    painter = FakePainter()
    desk = desk_of(painter, max_batch=2)
    first = [desk.ask_image(BASE) for _ in range(3)]
    desk.turns(4)
    assert painter.steps == [first[:2]] * 4
    desk.turns(4)
    assert painter.steps[4:] == [first[2:]] * 4


def test_an_image_that_was_parked_goes_on_with_one_step_at_a_time() -> None:
    painter = FakePainter()
    desk = Desk(painter=painter, schedule="fused", quantum_steps=1, max_batch=1, patience_steps=2, turn_steps=2)
    requests = [desk.ask_image(num_steps=20) for _ in range(2)]
    desk.run_out()  # the painter takes one step at a time

    assert [end for request in requests if isinstance(end := desk.clients[request].events[-1], ImageEvent)]
    assert desk.value("shira_parked_total", reason="turn") != 0
    assert len(painter.steps) == 40


def test_an_error_of_our_own_within_a_step_is_told_as_it_is() -> None:
    painter = FakePainter()
    desk = desk_of(painter)
    request = desk.ask_image()
    painter.failing[request] = RequestRejected("not this one")
    desk.run_out()

    assert isinstance(desk.clients[request].error, RequestRejected)


def test_a_slow_reader_finds_the_latest_progress_with_the_latest_preview() -> None:
    async def read() -> list[object]:
        mailbox = Mailbox()
        for done in range(1, 9):
            for place in (0, 1):
                preview = PREVIEW if done == 6 and place == 0 else None
                mailbox.put(place, ProgressEvent(num_done=done, num_steps=9, preview=preview))
        found: list[object] = [await mailbox.get(), await mailbox.get()]
        mailbox.put(1, ProgressEvent(num_done=9, num_steps=9))
        return [*found, await mailbox.get()]

    assert asyncio.run(read()) == [
        (0, ProgressEvent(num_done=8, num_steps=9, preview=PREVIEW)),
        (1, ProgressEvent(num_done=8, num_steps=9)),
        (1, ProgressEvent(num_done=9, num_steps=9)),
    ]
