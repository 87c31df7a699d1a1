"""One image on its way through a diffusers pipeline, which stops whenever it needs the denoiser.

The pipeline's own code runs, so an image is what diffusers would make; it runs in a greenlet, and where it calls its
U-Net or transformer it hands the call out and waits for the answer. Between two calls nothing of it is on the way:
other images can run, and the weights can be switched.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from server.core.errors import RequestRejected
from server.core.requests import ImageRequest, Picture
from server.runners.denoiser_calls import DenoiserCall
from server.runners.schedulers import seed_steps_

log = logging.getLogger(__name__)

Preview = Callable[[Tensor, int, int], Picture]  # of latents, height and width


class Drawing:
    """Of one thread. ``num_done`` of ``num_steps`` denoising steps have run, of which schedulers of higher order have
    more than were asked for; ``picture`` is there at the end."""

    def __init__(self, pipeline: Any, denoiser: str, request: ImageRequest, scheduler: Any, preview: Preview) -> None:
        """``scheduler`` is this image's own. Nothing runs before ``start``."""
        self.request = request
        self._generator = torch.Generator().manual_seed(request.seed)  # on the CPU, so that seeds mean the same
        seed_steps_(scheduler, self._generator)
        self.num_done = 0
        self.num_steps = request.max_new_tokens
        self.preview: Picture | None = None  # made by the last step
        self.picture: Picture | None = None
        self.call: DenoiserCall | None = None  # what it waits for
        self._order = getattr(scheduler, "order", 1)
        self._make_preview = preview
        self._pipeline = copy.copy(pipeline)  # a call keeps its state on the pipeline: each image has its own
        vars(self._pipeline)["scheduler"] = scheduler  # past diffusers' own setter, which rewrites the shared config
        vars(self._pipeline)[denoiser] = _Suspending(getattr(pipeline, denoiser))
        self._accepts = inspect.signature(type(pipeline).__call__).parameters
        self._run = greenlet(self._draw)

    @property
    def is_started(self) -> bool:
        return bool(self._run) or self._run.dead

    @property
    def place(self) -> int:
        """The denoising step that is next, of those asked for: one of a second-order scheduler is two that run, the
        last one apart."""
        return self.num_done // self._order

    def start(self) -> None:
        """Reads the prompt, up to the first call."""
        self._go_on(None)

    def resume(self, answer: Any) -> None:
        """Goes on with what the denoiser answered, up to the next call or the end."""
        self.preview = None
        num_done = self.num_done
        self._go_on(_Answer(answer))
        if not self._tells_steps and self.num_done == num_done:
            self.num_done += 1

    def close(self) -> None:
        """Gives up, wherever it is."""
        if self._run:
            self._run.throw()  # as GreenletExit

    def _go_on(self, answer: _Answer | None) -> None:
        called = self._run.switch() if answer is None else self._run.switch(answer)
        self.call = None if self._run.dead else called

    def _draw(self) -> None:
        request = self.request
        wanted = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "height": request.height,
            "width": request.width,
            "num_inference_steps": request.max_new_tokens,
            "guidance_scale": request.guidance_scale,
            "generator": self._generator,
            "output_type": "np",
            "callback_on_step_end": self._end_step if self._tells_steps else None,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        made = self._pipeline(**given)
        if self.call is None:
            raise RuntimeError("the pipeline made a picture without its denoiser: no adapter can have been at work")
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            raise RequestRejected("the base's safety checker holds this picture back", param="prompt")
        if not np.isfinite(made.images[0]).all():
            raise self._no_numbers()
        self.picture = _picture(made.images[0])

    @property
    def _tells_steps(self) -> bool:
        return "callback_on_step_end" in self._accepts

    def _no_numbers(self) -> Exception:
        """Adapters are taken for the cause: it is for whoever scaled them."""
        if self.request.blend.is_base:
            return ValueError("the image came out as no numbers (NaN)")
        return RequestRejected("adapter: with these scales the image comes out as no numbers (NaN)", param="adapter")

    def _end_step(self, pipeline: Any, index: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self.num_done = index + 1
        self.num_steps = getattr(pipeline, "num_timesteps", self.num_steps)
        every = self.request.preview_every
        if every and self.num_done % every == 0 and self.num_done < self.num_steps:
            self.preview = self._try_preview(tensors["latents"])
        return tensors

    def _try_preview(self, latents: Tensor) -> Picture | None:
        """A picture is worth more than its previews: one that fails is left out."""
        try:
            return self._make_preview(latents, self.request.height, self.request.width)
        except Exception:
            log.exception("a preview failed")
            return None


class _Suspending:
    """Stands in for the denoiser within one drawing: a call is handed out, everything else is the denoiser's."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine = getcurrent().parent
        assert engine is not None  # noqa: S101  (a drawing's greenlet is nobody's root)
        answer = engine.switch(DenoiserCall(args=args, kwargs=kwargs))
        return answer.value


class _Answer:
    """Keeps a tuple from being taken apart on its way into the greenlet."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _picture(pixels: Any) -> Picture:
    """Of (height, width, 3) in 0 … 1."""
    height, width, _ = pixels.shape
    return Picture(width=width, height=height, rgb=(pixels * 255).round().astype(np.uint8).tobytes())
