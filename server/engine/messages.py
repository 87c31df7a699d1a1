"""What crosses the line between the asyncio loop and the engine thread: frozen, and nothing else does. No torch.

Commands go in through one bounded queue; events come back through a sink per request.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.core.requests import (
    FinishReason,
    GenerationRequest,
    ImageUsage,
    Picture,
    Receipt,
    RequestId,
    TokenLogprob,
    Usage,
)
from server.core.steps import LoadReport, VerifyReport

if TYPE_CHECKING:
    from adapters_store.adapter import Version
    from adapters_store.blend import BlendKey


# Events: engine -> one request's client.
@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvent:
    """Text that is final: no later token or stop string can take it back. Never empty.

    ``logprobs``: of the tokens drawn since the last event, when they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishEvent:
    """The end of a text. ``logprobs``: of the tokens drawn since the last event, when they were asked for."""

    finish_reason: FinishReason
    usage: Usage
    receipt: Receipt
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """So many of an image's denoising steps have run. Whoever reads slowly may find only the last one of several."""

    num_done: int
    num_steps: int
    preview: Picture | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEvent:
    """The end of an image: the image."""

    picture: Picture
    finish_reason: FinishReason
    usage: ImageUsage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class FailEvent:
    """The request ends with an error; other requests go on."""

    error: Exception


Event = TextEvent | FinishEvent | ProgressEvent | ImageEvent | FailEvent
EventSink = Callable[[Event], None]  # called on the engine thread; must not block or raise


# Commands: anyone -> engine.
@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Requests of one prompt and one blend, at least one: all are taken or, if one cannot be, none.

    ``sinks``: one for each, in their order."""

    requests: tuple[GenerationRequest, ...]
    sinks: tuple[EventSink, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendLoaded:
    """The loader has brought a blend's bytes, or cannot get them. ``load`` tells which request for the blend this
    answers."""

    blend_key: BlendKey
    load: int
    report: LoadReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Stop holding anything of this adapter version: restore the base if it is in, drop staged words."""

    version: Version
    done: Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Recompute the digest of the loaded weights in slices between steps."""

    done: Future[VerifyReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    done: Future[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Finish what was accepted, then stop; what is unfinished at ``deadline_s`` (engine clock) fails with Draining.
    ``done`` resolves when the last request has ended and the base is back."""

    deadline_s: float
    done: Future[None]


Command = Submit | Abort | BlendLoaded | Forget | Verify | Inspect | Drain
