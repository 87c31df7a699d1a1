"""From the body of a picture request to the frozen requests that the engine runs: defaults, seeds, limits."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from dataclasses import replace

from adapters_store.blend import Blend
from server.api.admission import admit, check_at_most, nth_id
from server.api.image_schemas import ImageBody, ImageParameters
from server.api.schemas import SEEDS
from server.api.services import Services
from server.core.errors import RequestRejected
from server.core.keys import ApiKey
from server.core.pictures import PictureInfo
from server.core.requests import ImageRequest
from server.core.settings import ServerConfig

DRAWN_SEEDS = 2**32  # every JSON reader holds them exactly
OVERSIZE = 2  # how many times the base's own side a picture's may be
MOUNTED = "the route is there for bases that draw alone"


async def admit_images(
    services: Services, key: ApiKey, body: ImageBody, held: AsyncExitStack
) -> tuple[ImageRequest, ...]:
    """One request for each image asked for. Raises RequestRejected, BlendRejected or AdapterNotFound.

    The versions stay held until ``held`` closes, so that a delete waits for the requests."""
    config, pictures, asked = services.config, _pictures(services), body.parameters
    num_steps = _num_steps(config, pictures, asked.num_inference_steps)
    height = _side(config, pictures, "height", asked.height or pictures.default_height)
    width = _side(config, pictures, "width", asked.width or pictures.default_width)
    _check_num_images(config, pictures, asked.num_images, height=height, width=width)
    _check_scheduler(pictures, asked.scheduler)
    _check_meaning(asked.negative_prompt, is_taken=pictures.takes_negative_prompt, param="parameters.negative_prompt")
    _check_meaning(asked.guidance_scale, is_taken=pictures.takes_guidance_scale, param="parameters.guidance_scale")
    _check_guidance(pictures, asked)
    _check_previews(pictures, body, num_steps)
    admitted = await admit(services, key, body, body.fusion.asked, held)
    _check_turns(admitted["blend"], num_steps)
    await services.workers.tokenising(_check_prompts, services, body)
    seed = secrets.randbelow(DRAWN_SEEDS) if asked.seed is None else asked.seed
    first = ImageRequest(
        **admitted,
        mode="fused",
        prompt=body.prompt,
        negative_prompt=asked.negative_prompt,
        height=height,
        width=width,
        guidance_scale=asked.guidance_scale,
        scheduler=asked.scheduler,
        seed=seed,
        preview_every=asked.previews or 0,
        max_new_tokens=num_steps,
        token_cost=_step_cost(pictures, height * width, admitted["blend"], asked.previews),
    )
    further = range(1, asked.num_images)
    return first, *(replace(first, id=nth_id(first.id, place), seed=(seed + place) % SEEDS) for place in further)


def _num_steps(config: ServerConfig, pictures: PictureInfo, asked: int | None) -> int:
    limit = config.max_inference_steps
    if asked is None:
        return min(pictures.default_num_steps, limit)
    check_at_most(limit, asked, param="parameters.num_inference_steps")
    return asked


def _side(config: ServerConfig, pictures: PictureInfo, name: str, got: int) -> int:
    """A ceiling by the base's own size: attention costs the square of the pixels, and nobody interrupts a step."""
    multiple, own = pictures.size_multiple, max(pictures.default_height, pictures.default_width)
    limit = OVERSIZE * own if config.max_image_side is None else config.max_image_side
    if got % multiple or not multiple <= got <= limit:
        param = f"parameters.{name}"
        raise RequestRejected(f"{param}: a multiple of {multiple} from {multiple} to {limit}, got {got}", param=param)
    return got


def _check_num_images(config: ServerConfig, pictures: PictureInfo, got: int, *, height: int, width: int) -> None:
    """Large ones count more, as they are held, encoded and sent together."""
    own = pictures.default_height * pictures.default_width
    limit = min(config.max_queue, max(1, config.max_images * own // max(own, height * width)))
    if got > limit:
        param = "parameters.num_images"
        raise RequestRejected(f"{param}: at most {limit} of {height}×{width} pixels, got {got}", param=param)


def _check_scheduler(pictures: PictureInfo, asked: str | None) -> None:
    if asked is not None and asked not in pictures.schedulers:
        param, known = "parameters.scheduler", ", ".join(pictures.schedulers)
        raise RequestRejected(f"{param}: one of {known}; got {asked!r}", param=param)


def _check_meaning(asked: object, *, is_taken: bool, param: str) -> None:
    if asked is not None and not is_taken:
        raise RequestRejected(f"{param}: this base has none", param=param)


def _check_guidance(pictures: PictureInfo, asked: ImageParameters) -> None:
    """A negative prompt that no step would hear."""
    threshold, scale = pictures.guidance_threshold, asked.guidance_scale
    if scale is None:
        scale = pictures.default_guidance_scale
    if asked.negative_prompt is None or threshold is None or scale is None or scale > threshold:
        return
    param = "parameters.negative_prompt"
    raise RequestRejected(f"{param}: only with a guidance_scale above {threshold:g}, got {scale:g}", param=param)


def _check_previews(pictures: PictureInfo, body: ImageBody, num_steps: int) -> None:
    asked, param = body.parameters.previews, "parameters.previews"
    if asked is None:
        return
    if not body.stream:
        raise RequestRejected(f"{param}: only with stream, which is false", param=param)
    if not pictures.can_preview:
        raise RequestRejected(f"{param}: this base shows no picture before it is done", param=param)
    if asked > num_steps:
        raise RequestRejected(f"{param}: at most the {num_steps} denoising steps, got {asked}", param=param)


def _check_turns(blend: Blend, num_steps: int) -> None:
    """The receipt names every adapter: none may be without a step."""
    if num_steps >= blend.min_steps:
        return
    num_turns = len(blend.parts)
    longest = (num_steps - 1) // (num_turns - 1)
    if not longest:
        param = "parameters.num_inference_steps"
        expected = f"at least {num_turns}, as many as adapters take turns"
        raise RequestRejected(f"{param}: {expected}, got {num_steps}", param=param)
    expected = f"at most {longest}, so that each of {num_turns} adapters has its turn in {num_steps} denoising steps"
    raise RequestRejected(f"fusion.every: {expected}, got {blend.fusion.every}", param="fusion.every")


def _check_prompts(services: Services, body: ImageBody) -> None:
    """What an encoder would not read is refused: it would be cut in silence."""
    check = services.prompts
    assert check is not None, MOUNTED  # noqa: S101
    for param, prompt in (("prompt", body.prompt), ("parameters.negative_prompt", body.parameters.negative_prompt)):
        num_tokens = check.num_tokens(prompt) if prompt else 0
        if num_tokens > check.max_tokens:
            message = f"{param}: the text encoder reads at most {check.max_tokens} tokens, got {num_tokens}"
            raise RequestRejected(message, param=param)


def _step_cost(pictures: PictureInfo, num_pixels: int, blend: Blend, previews: int | None) -> float:
    """Of one denoising step, against a step without adapters at the base's own size. A preview is taken for a step."""
    num_runs: float = len(blend.parts) if blend.fusion.method == "composite" else 1
    if previews is not None:
        num_runs += 1 / previews
    return num_runs * num_pixels / (pictures.default_height * pictures.default_width)


def _pictures(services: Services) -> PictureInfo:
    assert services.base.pictures is not None, MOUNTED  # noqa: S101
    return services.base.pictures
