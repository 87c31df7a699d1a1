"""Images under adapters, against diffusers run by hand over weights that were changed by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from greenlet import greenlet
from torch import Tensor

from adapters_store.blend import BASE, Blend
from server.core.errors import RequestRejected
from server.core.requests import RequestId
from server.core.steps import StepError, StepImage, Work
from server.execution.audit import audit
from tests.server.runners.by_hand import by_diffusers, changed, with_denoiser
from tests.server.runners.picture_rig import NUM_STEPS, SIZE, PictureRig, deltas, image_request, one, pixels
from tests.server.runners.tiny_pipelines import FAMILIES, Family


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], PictureRig]:
    folder = tmp_path_factory.mktemp("pipelines")
    made: dict[Family, PictureRig] = {}

    def rig(family: Family) -> PictureRig:
        if family not in made:
            made[family] = PictureRig.of(family, folder / family)
        return made[family]

    return rig


@pytest.fixture
def rig(rigs: Callable[[Family], PictureRig]) -> Iterator[PictureRig]:
    rig = rigs("sd")
    yield rig
    rig.stack.execution.restore()
    assert_base_is_back(rig)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_of_an_adapter_is_what_diffusers_draws_over_changed_weights(
    rigs: Callable[[Family], PictureRig], family: Family
) -> None:
    rig = rigs(family)
    denoising, reading = rig.adapter(1), rig.adapter(2, component="text_encoder")
    for blend, merged in (
        (one(denoising), deltas([(denoising, 1.0)])),
        (one(reading), deltas([(reading, 1.0)])),
        (one(denoising, reading, scale=0.5), deltas([(denoising, 0.5), (reading, 0.5)])),
        (BASE, {}),
    ):
        [picture] = rig.draw(image_request(blend=blend))
        with changed(rig, merged):
            expected = by_diffusers(rig)
        assert pixels(picture).tobytes() == expected.tobytes(), blend


def test_adapters_change_what_is_drawn(rig: PictureRig) -> None:
    pictures = rig.draw(
        image_request("base"),
        image_request("a", one(rig.adapter(1))),
        image_request("b", one(rig.adapter(2, component="text_encoder"))),
    )

    assert len({picture.rgb for picture in pictures}) == 3


def test_images_of_four_blends_that_take_turns_are_those_of_each_alone(rig: PictureRig) -> None:
    blends = [BASE, one(rig.adapter(1)), one(rig.adapter(2)), one(rig.adapter(1), rig.adapter(2), scale=0.7)]
    requests = [image_request(f"r{place}", blend, seed=place) for place, blend in enumerate(blends)]

    together = rig.draw(*requests)

    assert [picture.rgb for picture in together] == [rig.draw(request)[0].rgb for request in requests]


def test_images_of_one_blend_share_forwards_up_to_the_limit_of_pixels(tmp_path: Path) -> None:
    rig = PictureRig.of("sd", tmp_path / "sd", max_pixels=2 * SIZE * SIZE)
    rows: list[int] = []
    rig.loaded.pipeline.unet.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))

    rig.draw(*(image_request(f"r{seed}", seed=seed) for seed in range(5)))

    assert rows == [4, 4, 2] * NUM_STEPS  # two rows for each image


def test_switch_has_each_adapter_in_the_weights_for_its_steps(rig: PictureRig) -> None:
    first, second = rig.adapter(1), rig.adapter(2)
    asked = image_request(blend=one(first, second, method="switch", every=2), max_new_tokens=5)

    [picture] = rig.draw(asked)

    turns = [first, first, second, second, first]
    expected = with_denoiser(rig, lambda step, run: run(deltas([(turns[step], 1.0)])), num_steps=5)
    assert pixels(picture).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore")  # those of diffusers
@pytest.mark.parametrize("scheduler", ["heun", "kdpm2", "kdpm2_ancestral"])
def test_switch_splits_no_denoising_step_that_runs_the_denoiser_twice(rig: PictureRig, scheduler: str) -> None:
    """Turns were counted in runs: the two of one step were of two adapters."""
    first, second = rig.adapter(1), rig.adapter(2)
    asked = image_request(blend=one(first, second, method="switch"), max_new_tokens=4, scheduler=scheduler)

    [picture] = rig.draw(asked)

    turns = [first, first, second, second, first, first, second]  # of the seven runs in four steps
    expected = with_denoiser(
        rig, lambda run_before, run: run(deltas([(turns[run_before], 1.0)])), num_steps=4, scheduler=scheduler
    )
    assert pixels(picture).tobytes() == expected.tobytes()


def test_switch_goes_in_the_order_of_the_request(rig: PictureRig) -> None:
    first, second = rig.adapter(1), rig.adapter(2)

    one_way, other_way = rig.draw(
        image_request("a", one(first, second, method="switch")), image_request("b", one(second, first, method="switch"))
    )

    assert one_way.rgb != other_way.rgb


def test_images_at_different_turns_of_one_blend_run_in_one_step(rig: PictureRig) -> None:
    blend = one(rig.adapter(1), rig.adapter(2), method="switch")
    alone = rig.draw(image_request("a", blend))[0].rgb
    runner, execution = rig.runner, rig.stack.execution
    runner.begin(image_request("early", blend))
    execution.activate(blend)
    runner.step([Work(id=RequestId("early"))])
    runner.begin(image_request("late", blend))

    pictures: dict[str, bytes] = {}
    while len(pictures) < 2:
        waiting = [Work(id=RequestId(name)) for name in ("early", "late") if name not in pictures]
        for result in runner.step(waiting):
            assert isinstance(result, StepImage)
            if result.picture is not None:
                pictures[str(result.id)] = result.picture.rgb
    runner.drop([RequestId("early"), RequestId("late")])

    assert pictures["early"] == pictures["late"] == alone


def test_composite_averages_the_guided_noise_of_its_adapters(rig: PictureRig) -> None:
    adapters = [rig.adapter(seed) for seed in (1, 2, 3)]

    [picture] = rig.draw(image_request(blend=one(*adapters, method="composite")))

    def average(_: int, run: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        return torch.stack([run(deltas([(adapter, 1.0)])) for adapter in adapters]).mean(dim=0)

    expected = with_denoiser(rig, average, num_steps=NUM_STEPS)
    assert np.abs(pixels(picture).astype(int) - expected).max() <= 1


def test_switches_within_a_step_are_told(rig: PictureRig) -> None:
    blend = one(rig.adapter(1), rig.adapter(2), method="composite")
    rig.runner.begin(image_request("r", blend))
    rig.stack.execution.activate(blend)

    [result] = rig.runner.step([Work(id=RequestId("r"))])

    rig.runner.drop([RequestId("r")])
    assert isinstance(result, StepImage)
    assert result.switch_s > 0


def test_an_image_that_fails_fails_alone(rig: PictureRig) -> None:
    rig.runner.begin(image_request("good"))
    rig.runner.begin(image_request("bad", height=SIZE + 1))
    rig.stack.execution.restore()

    results = {result.id: result for result in rig.runner.step([Work(id=RequestId(i)) for i in ("good", "bad")])}

    rig.runner.drop([RequestId("good"), RequestId("bad")])
    assert isinstance(results[RequestId("bad")], StepError)
    assert isinstance(results[RequestId("good")], StepImage)


def test_a_forward_that_fails_ends_the_images_that_share_it_and_no_others(rig: PictureRig) -> None:
    """One request could end all others of its blend: of the base, everybody's."""
    ids = [RequestId(name) for name in ("good", "bad", "as bad")]
    rig.runner.begin(image_request("good"))
    rig.runner.begin(image_request("bad", width=SIZE // 2))
    rig.runner.begin(image_request("as bad", width=SIZE // 2))
    rig.stack.execution.restore()

    def out_of_memory(_: Any, args: tuple[Any, ...]) -> None:
        if args[0].shape[-1] != args[0].shape[-2]:
            raise RuntimeError("out of memory")

    with rig.loaded.pipeline.unet.register_forward_pre_hook(out_of_memory):
        results = {result.id: result for result in rig.runner.step([Work(id=name) for name in ids])}

    rig.runner.drop(ids)
    assert isinstance(results[ids[0]], StepImage)
    for failed in (results[ids[1]], results[ids[2]]):
        assert isinstance(failed, StepError)
        assert str(failed.error) == "out of memory"


@pytest.mark.parametrize(
    ("family", "wishes"),
    [
        ("sd", {"scheduler": "pndm", "max_new_tokens": 2}),
        ("lcm", {"max_new_tokens": 60}),
        ("sd3", {"height": 512, "max_new_tokens": 1}),
    ],
)
def test_what_a_pipeline_does_not_take_is_refused_and_not_a_failure_of_the_server(
    rigs: Callable[[Family], PictureRig], family: Family, wishes: dict[str, Any]
) -> None:
    """Schedulers have fewest and most steps, transformers a largest size; each told so by an error 500."""
    rig = rigs(family)
    rig.runner.begin(image_request(**wishes))
    rig.stack.execution.restore()

    [result] = rig.runner.step([Work(id=RequestId("r"))])

    rig.runner.drop([RequestId("r")])
    assert isinstance(result, StepError)
    assert isinstance(result.error, RequestRejected)
    assert str(result.error).startswith("this base cannot draw ")


def test_an_image_that_is_given_up_leaves_gradients_as_they_were(rig: PictureRig) -> None:
    """Its pipeline turned them off for the thread, and turned them on again never."""
    rig.runner.begin(image_request("given up"))
    rig.stack.execution.restore()
    rig.runner.step([Work(id=RequestId("given up"))])

    rig.runner.drop([RequestId("given up")])

    assert torch.is_grad_enabled()


def test_images_that_are_given_up_anywhere_leave_nothing_behind(rig: PictureRig) -> None:
    rig.stack.execution.restore()
    name = RequestId("given up")
    known: list[int] = []
    for num_steps in [*range(NUM_STEPS)] * 2:
        rig.runner.begin(image_request(name, height=8, width=8))
        for _ in range(num_steps):
            rig.runner.step([Work(id=name)])
        rig.runner.drop([name])
        if num_steps == NUM_STEPS - 1:
            gc.collect()
            known.append(sum(issubclass(type(thing), Tensor | greenlet) for thing in gc.get_objects()))

    assert known[0] == known[1]


def test_a_seed_is_an_image(rig: PictureRig) -> None:
    first, again, other = (rig.draw(image_request(seed=seed))[0].rgb for seed in (5, 5, 6))

    assert first == again != other


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), FlowMatchLCMScheduler()],
    ids=["euler", "lcm"],
)
def test_a_seed_is_an_image_also_where_each_step_draws_noise(
    rigs: Callable[[Family], PictureRig], monkeypatch: pytest.MonkeyPatch, family: Family, scheduler: Any
) -> None:
    """These pipelines name no generator for it: it came out of torch's own, which is everybody's."""
    rig = rigs(family)
    monkeypatch.setattr(rig.loaded.pipeline, "scheduler", scheduler)
    before = torch.random.get_rng_state()

    first, again, other = (rig.draw(image_request(seed=seed))[0].rgb for seed in (5, 5, 6))

    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_who_wants_forwards_of_its_own_has_them_also_beside_guided_images(tmp_path: Path) -> None:
    """Rows were counted, and a guided image has two: two unguided ones shared what was meant for one."""
    rig = PictureRig.of("sd", tmp_path / "sd", max_pixels=1)
    rows: list[int] = []
    rig.loaded.pipeline.unet.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))

    rig.draw(*(image_request(f"r{scale}", guidance_scale=scale) for scale in (1.0, 1.1, 0.5)))

    assert sorted(rows) == [1] * 2 * NUM_STEPS + [2] * NUM_STEPS


def test_a_thousand_switches_between_denoising_steps_leave_the_base_bit_for_bit(rig: PictureRig) -> None:
    blends = [BASE, *(one(rig.adapter(seed), scale=scale) for seed in (1, 2, 3) for scale in (1.0, -0.3))]
    blends.append(one(rig.adapter(1), rig.adapter(2), method="switch"))
    order = torch.Generator().manual_seed(0)
    before = rig.draw(image_request("before"))[0].rgb
    live: dict[RequestId, Blend] = {}
    num_switches, names = 0, iter(range(1_000_000))
    while num_switches < 1_000:
        blend = blends[int(torch.randint(len(blends), (1,), generator=order))]
        num_switches += rig.stack.execution.activate(blend).kind != "none"
        of_blend = [name for name, other in live.items() if other is blend]
        if not of_blend:
            new = image_request(f"r{next(names)}", blend, height=8, width=8, max_new_tokens=4)
            rig.runner.begin(new)
            live[new.id] = blend
            of_blend = [new.id]
        for result in rig.runner.step([Work(id=name) for name in of_blend]):
            assert isinstance(result, StepImage)
            if result.picture is not None:
                rig.runner.drop([result.id])
                del live[result.id]
    rig.runner.drop(list(live))
    rig.stack.execution.restore()

    assert_base_is_back(rig)
    assert rig.draw(image_request("after"))[0].rgb == before


def assert_base_is_back(rig: PictureRig) -> None:
    *_, report = audit(rig.loaded.weights, lambda: None)
    assert report is not None
    assert report.ok
