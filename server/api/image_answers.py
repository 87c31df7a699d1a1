"""From the engine's events to the answer to a picture request: JSON, the picture itself, or server-sent events.

What is as large as a picture is encoded by ``Workers``, not on the event loop."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from server.api.generation import NO_ANSWER, Placed
from server.api.image_views import ImageAnswer, ImageUsageView, ImageView, PreviewView
from server.api.receipt_view import ReceiptView
from server.api.sse import frame
from server.api.workers import Workers
from server.core.errors import Aborted
from server.core.requests import ImageRequest, ImageUsage, Picture
from server.engine.messages import FailEvent, ImageEvent, ProgressEvent

PNG_LEVEL = 1  # a quarter of the time of zlib's own choice, for a tenth more bytes


async def whole_images(asked: Sequence[ImageRequest], events: AsyncIterator[Placed]) -> list[ImageEvent]:
    """In the order asked for. Raises what a FailEvent carries."""
    ends: dict[int, ImageEvent] = {}
    async for place, event in events:
        if isinstance(event, FailEvent):
            raise event.error
        if isinstance(event, ImageEvent):
            ends[place] = event
    if len(ends) < len(asked):
        raise Aborted(NO_ANSWER)
    return [ends[place] for place in range(len(asked))]


async def json_answer(workers: Workers, asked: Sequence[ImageRequest], ends: list[ImageEvent]) -> bytes:
    """Empties ``ends``: pixels are let go as they are encoded. Between two pictures others have their turn."""
    first, usage = ends[0], ImageUsageView.of([end.usage for end in ends])
    images = []
    for request in asked:
        images.append(await workers.encoding(_image, request, ends.pop(0), has_receipt=len(asked) > 1))
    answer = ImageAnswer(
        id=asked[0].id,
        images=images,
        finish_reason=first.finish_reason,
        usage=usage,
        receipt=ReceiptView.of(first.receipt),
    )
    return await workers.encoding(_json, answer)


async def image_frames(
    workers: Workers,
    asked: Sequence[ImageRequest],
    events: AsyncIterator[Placed],
    let_go: Callable[[], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """One for each event that is read. ``let_go`` of what the requests hold, once the last has ended. Raises what a
    FailEvent carries."""
    ended: list[ImageUsage] = []
    async for place, event in events:
        whose: dict[str, Any] = {"index": place} if len(asked) > 1 else {}
        match event:
            case ProgressEvent():
                yield await _progress_frame(workers, event, whose)
            case ImageEvent():
                ended.append(event.usage)
                if len(ended) == len(asked):
                    await let_go()
                last = whose | {"id": asked[0].id, "usage": ImageUsageView.of(ended).model_dump()}
                yield await workers.encoding(_image_frame, asked[place], event, last)
            case FailEvent():
                raise event.error
    if len(ended) < len(asked):
        raise Aborted(NO_ANSWER)


def png(picture: Picture) -> bytes:
    from PIL import Image  # installed where pictures are served

    file = io.BytesIO()
    size = (picture.width, picture.height)
    Image.frombytes("RGB", size, picture.rgb).save(file, format="PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


async def _progress_frame(workers: Workers, event: ProgressEvent, whose: dict[str, Any]) -> bytes:
    told = {"step": event.num_done, "num_steps": event.num_steps, **whose}
    if event.preview is not None:
        told["preview"] = PreviewView(b64=await workers.encoding(_b64, event.preview)).model_dump()
    return frame(told)


def _image_frame(request: ImageRequest, event: ImageEvent, last: dict[str, Any]) -> bytes:
    image = _image(request, event, has_receipt=False).model_dump(exclude_none=True)
    receipt = ReceiptView.of(event.receipt).model_dump()
    return frame({**last, "images": [image], "finish_reason": event.finish_reason, "receipt": receipt})


def _image(request: ImageRequest, event: ImageEvent, *, has_receipt: bool) -> ImageView:
    receipt = ReceiptView.of(event.receipt) if has_receipt else None
    return ImageView(b64=_b64(event.picture), seed=request.seed, receipt=receipt)


def _json(answer: ImageAnswer) -> bytes:
    return answer.model_dump_json(exclude_none=True).encode()


def _b64(picture: Picture) -> str:
    return base64.b64encode(png(picture)).decode("ascii")
