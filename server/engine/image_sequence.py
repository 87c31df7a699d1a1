"""An image on its way: denoising steps come in, progress goes out, at last the picture."""

from __future__ import annotations

from dataclasses import dataclass

from server.core.requests import FinishReason, ImageRequest, ImageUsage, Picture, Receipt
from server.core.steps import StepImage
from server.engine.messages import ImageEvent, ProgressEvent
from server.engine.sequence import Sequence


@dataclass(slots=True, kw_only=True, eq=False)
class ImageSequence(Sequence):
    request: ImageRequest
    picture: Picture | None = None

    @property
    def new(self) -> ImageRequest:
        return self.request

    @property
    def num_todo(self) -> int:
        """One step at a time, also after a pause: the latents were kept."""
        return 1

    def advance(self, result: StepImage, now: float) -> FinishReason | None:
        self.count(now)
        self.switch_s += result.switch_s
        self.sink(ProgressEvent(num_done=result.num_done, num_steps=result.num_steps, preview=result.preview))
        self.picture = result.picture
        return "stop" if result.picture is not None else None

    def finish(self, reason: FinishReason, held_text: str, receipt: Receipt) -> None:
        assert self.picture is not None  # noqa: S101  (``advance`` has said that it ends)
        usage = ImageUsage(num_steps=self.num_tokens)
        self.sink(ImageEvent(picture=self.picture, finish_reason=reason, usage=usage, receipt=receipt))
