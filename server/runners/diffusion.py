"""Runs images step by step: each joins and leaves between denoising steps, under whatever blend is in the weights."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch

from adapters_store.blend import Blend
from server.core.errors import RequestRejected, ServerError
from server.core.requests import ImageRequest, RequestId
from server.core.steps import New, Reused, StepError, StepImage, StepResult, SwitchReport, Work
from server.runners.denoiser_calls import mean, predict, without_frames
from server.runners.drawing import Drawing
from server.runners.pipeline_loading import LoadedPipeline
from server.runners.previews import preview
from server.runners.schedulers import DEFAULT, make_scheduler

log = logging.getLogger(__name__)

MAX_STEPS = 1_000_000  # of a sequence; requests are bounded long before
MAX_SHOWN_CHARS = 300  # of what a pipeline says


class Parts(Protocol):
    """Brings one part of the active blend into the weights: the execution."""

    def enter(self, part: Blend) -> SwitchReport: ...


class DiffusionRunner:
    """Satisfies ``engine.ports.Runner``. Owns the drawings, and with them their latents. Engine thread only."""

    def __init__(self, loaded: LoadedPipeline, parts: Parts, *, max_images: int, max_pixels: int) -> None:
        """At most ``max_images`` have steps run; a forward is over at most ``max_pixels`` of them, or one image."""
        self._loaded = loaded
        self._parts = parts
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._denoiser = getattr(loaded.pipeline, loaded.denoiser)
        self._preview = partial(preview, loaded.pipeline)
        self._live: dict[RequestId, Drawing] = {}

    @property
    def max_sequence_tokens(self) -> int:
        return MAX_STEPS

    def fits(self, lengths: Sequence[int]) -> bool:
        """Latents are small beside weights: images are counted."""
        return len(lengths) <= self._max_images

    def begin(self, new: New) -> Reused:
        """An image that was paused goes on where it was."""
        assert isinstance(new, ImageRequest)  # noqa: S101  (a text base has another runner)
        if new.id not in self._live:
            pipeline = self._loaded.pipeline
            scheduler = make_scheduler(pipeline, new.scheduler or DEFAULT)
            self._live[new.id] = Drawing(pipeline, self._loaded.denoiser, new, scheduler, self._preview)
        return Reused()

    @torch.inference_mode()
    def step(self, work: Sequence[Work]) -> list[StepResult]:
        """One denoising step of each image; all are of one blend, which is active. Reading the prompt is part of the
        first step, decoding part of the last."""
        steps = [_Step(self._live[item.id]) for item in work]
        while unfinished := [step for step in steps if not step.is_over]:
            for parts, together in _by_parts(unfinished):
                self._advance(parts, together)
        return [step.result() for step in steps]

    def pause(self, ids: Collection[RequestId]) -> None:
        """Keeps the latents: they are what a pause is for."""

    def finish_text(self, sequence_id: RequestId) -> str:
        return ""

    @torch.inference_mode()  # as it was started: a drawing that is given up turns gradients back to what they were then
    def drop(self, ids: Collection[RequestId]) -> None:
        for request in ids:
            drawing = self._live.pop(request, None)
            if drawing is not None:
                drawing.close()

    def describe(self) -> dict[str, Any]:
        return {"num_images": len(self._live), "max_images": self._max_images, "denoiser": self._loaded.denoiser}

    def _advance(self, parts: Sequence[Blend], steps: Sequence[_Step]) -> None:
        """Answers one call of each, under each of these parts."""
        self._enter(parts[0], steps)
        for step in steps:
            if not step.drawing.is_started:
                step.attempt(step.drawing.start)
        calling = [step for step in steps if step.drawing.call is not None]
        answers = []
        for part in parts if calling else ():
            self._enter(part, calling)
            answers.append(self._predict(calling))
        for step, of_parts in zip(calling, zip(*answers, strict=True), strict=True):
            step.attempt(partial(_resume, step.drawing, of_parts))

    def _enter(self, part: Blend, steps: Sequence[_Step]) -> None:
        report = self._parts.enter(part)
        for step in steps:
            step.switch_s += report.total_s

    def _predict(self, steps: Sequence[_Step]) -> list[Any]:
        calls = [step.drawing.call for step in steps if step.drawing.call is not None]
        pixels = max(step.drawing.request.height * step.drawing.request.width for step in steps)
        return predict(self._denoiser, calls, max_together=max(1, self._max_pixels // pixels))


class _Step:
    """One denoising step of one image, under way."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.switch_s = 0.0
        self._num_before = drawing.num_done
        self._place = drawing.place
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        drawing = self.drawing
        return self._error is not None or drawing.picture is not None or drawing.num_done > self._num_before

    @property
    def parts(self) -> tuple[Blend, ...]:
        """What must be in the weights in turn: of ``switch`` the part whose step it is, else all."""
        blend = self.drawing.request.blend
        return (blend.part_at(self._place),) if blend.fusion.method == "switch" else blend.parts

    def attempt(self, action: Any) -> None:
        """An image that fails fails alone."""
        try:
            action()
        except ServerError as error:
            self._error = error
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:  # what clients do wrong is not for the log
                log.exception("an image failed at step %d", self.drawing.num_done)
            self._error = without_frames(refusal or error)
        if self._error is not None:
            self.drawing.call = None

    def _refusal(self, error: Exception) -> RequestRejected | None:
        """Pipeline, scheduler and denoiser check what they were given before a step is done."""
        if self.drawing.num_done or not isinstance(error, TypeError | ValueError):
            return None
        asked = self.drawing.request
        steps = f"{asked.max_new_tokens} steps of the scheduler {asked.scheduler or DEFAULT}"
        wishes = f"{asked.width}×{asked.height} pixels in {steps}"
        return RequestRejected(f"this base cannot draw {wishes}: {str(error)[:MAX_SHOWN_CHARS]}")

    def result(self) -> StepResult:
        drawing = self.drawing
        if self._error is not None:
            return StepError(id=drawing.request.id, error=self._error)
        return StepImage(
            id=drawing.request.id,
            num_done=drawing.num_done,
            num_steps=drawing.num_steps,
            switch_s=self.switch_s,
            preview=drawing.preview,
            picture=drawing.picture,
        )


def _resume(drawing: Drawing, of_parts: Sequence[Any]) -> None:
    drawing.resume(mean(of_parts))


def _by_parts(steps: Sequence[_Step]) -> Iterator[tuple[tuple[Blend, ...], list[_Step]]]:
    """Those that need the same in the weights, together."""

    def keys(step: _Step) -> list[str]:
        return [part.key for part in step.parts]

    for _, together in groupby(sorted(steps, key=keys), key=keys):
        members = list(together)
        yield members[0].parts, members
