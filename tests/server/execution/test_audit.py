from __future__ import annotations

import pytest
import torch

from adapters_store.blend import BASE
from server.core.steps import VerifyReport
from server.execution.audit import audit
from tests.server.execution.world import World, make_adapter, make_index_set

BLOCK_BYTES = 2 * 65_536


def report_of(world: World) -> VerifyReport:
    *_, report = world.execution.verify()
    assert report is not None
    return report


def test_the_base_is_found_intact_whatever_is_in() -> None:
    world = World()
    assert report_of(world).ok
    for blend in (world.blend(make_adapter(1)), world.blend(make_adapter(1), make_adapter(2))):
        world.execution.activate(blend)
        report = report_of(world)
        assert report.ok
        assert report.digest == report.expected
        assert report.num_bytes == world.weights.num_bytes


def test_one_block_at_a_time_finds_the_same() -> None:
    world = World()
    world.execution.activate(world.blend(make_adapter(1)))
    support = world.execution._in.support if world.execution._in else None
    reports = list(audit(world.weights, lambda: support, slice_bytes=BLOCK_BYTES))
    assert len(reports) == 2 + 1 + 1 + 1 + 1 + 1  # a.weight has two blocks; at last the report
    assert reports[-1] is not None
    assert reports[-1].ok


@pytest.mark.parametrize("position", [0, 70_000, 89_999])
def test_a_single_flipped_bit_is_found_and_named(position: int) -> None:
    world = World()
    weight = world.weights.weights[0]
    weight.tensor.view(-1).view(torch.int16)[position] ^= 1
    report = report_of(world)
    assert not report.ok
    assert report.mismatched == ("a.weight",)
    assert report.digest != report.expected
    assert world.metrics.registry.get_sample_value("shira_base_integrity_failures_total") == 1
    assert world.metrics.registry.get_sample_value("shira_base_verified_timestamp_seconds") == 0
    assert world.execution.broken is not None
    assert "a.weight" in world.execution.broken


def test_a_flipped_bit_among_the_displaced_originals_is_found() -> None:
    world = World()
    world.execution.activate(world.blend(make_adapter(1, make_index_set(1, ["b.weight", "c.weight"]))))
    assert world.execution._in is not None
    world.execution._in.support.displaced[5] ^= 1
    assert report_of(world).mismatched == ("b.weight",)


def test_switches_between_the_slices_of_an_audit_do_not_disturb_it() -> None:
    world = World()
    blends = [world.blend(make_adapter(1)), BASE, world.blend(make_adapter(2)), world.blend(make_adapter(1))]
    slices = world.execution.verify()
    report = None
    while report is None:
        world.execution.activate(blends[0])
        blends = blends[1:] + blends[:1]
        report = next(slices)
    assert report.ok
