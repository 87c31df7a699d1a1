"""What one step of work takes in and hands back; shared by the engine, the runners and the execution. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from server.core.requests import ImageRequest, Mode, Picture, RequestId, Sampling, TokenLogprob
from server.core.tracing import Phase

if TYPE_CHECKING:
    from adapters_store.blend import Blend, BlendKey

SwitchKind = Literal["none", "fuse", "restore", "exchange", "overwrite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSequence:
    """A prompt to run. ``prompt_tokens`` is never empty.

    ``must_be_fused``: it may not reuse what was computed in mixed mode."""

    id: RequestId
    tenant: str
    blend: Blend
    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int
    must_be_fused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """What a sequence finds in the KV memory when it starts or resumes: the first ``num_tokens`` of it, of which some
    were computed in mixed mode if ``mode`` says so. Never all of its tokens."""

    num_tokens: int = 0
    mode: Mode = "fused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A sequence's share of one step: its next ``num_tokens`` tokens without KV, at least one.

    A step that covers the last of them samples a token."""

    id: RequestId
    num_tokens: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepToken:
    """One sampled token. ``text`` is what became final by it (empty while inside a multi-token character)."""

    id: RequestId
    token: int
    is_eos: bool
    text: str
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepImage:
    """One denoising step of an image. ``num_done`` of ``num_steps`` have run; schedulers of higher order take more
    than were asked for. ``picture`` is there after the last one. ``switch_s``: spent on switches within the step."""

    id: RequestId
    num_done: int
    num_steps: int
    switch_s: float = 0.0
    preview: Picture | None = None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepError:
    """A sequence could not go on; others of the step did."""

    id: RequestId
    error: Exception


New = NewSequence | ImageRequest  # what a runner takes in
StepResult = StepToken | StepImage | StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a blend whose bytes are on the host asks of a step. ``is_mixable``: rows of it can run beside others."""

    num_entries: int
    is_mixable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchReport:
    """What a switch did and took. ``tier`` is where the blend's bytes were found (``device`` when already staged).

    ``failed``: the blends that cannot run beside the active one after all, and why: BudgetExceeded where the device has
    no room for them beside those that were named before them."""

    kind: SwitchKind
    tier: Literal["device", "host"] = "device"
    stage_s: float = 0.0
    exchange_s: float = 0.0
    restore_s: float = 0.0
    total_s: float = 0.0
    failed: Mapping[BlendKey, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Every byte of a blend is on the host, or ``error`` tells why not. ``took``: when; None if nobody timed it."""

    error: Exception | None = None
    took: Phase | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """``digest`` is of the loaded weights with displaced originals substituted; ``num_bytes`` what was hashed."""

    ok: bool
    digest: str
    expected: str
    num_bytes: int
    mismatched: tuple[str, ...]
