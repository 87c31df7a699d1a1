"""What one step of work takes in and hands back; shared by the engine, the runners and the execution. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.core.requests import RequestId, Sampling

SwitchKind = Literal["none", "fuse", "restore", "exchange", "overwrite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSequence:
    """A prompt to run. ``prompt_tokens`` is never empty."""

    id: RequestId
    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepToken:
    """One sampled token. ``text`` is what became final by it (empty while inside a multi-token character)."""

    id: RequestId
    token: int
    is_eos: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchReport:
    """What a switch did and took. ``tier`` is where the blend's bytes were found (``device`` when already staged)."""

    kind: SwitchKind
    tier: Literal["device", "host"] = "device"
    stage_s: float = 0.0
    exchange_s: float = 0.0
    restore_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """``digest`` is of the loaded weights with displaced originals substituted; ``num_bytes`` what was hashed."""

    ok: bool
    digest: str
    expected: str
    num_bytes: int
    mismatched: tuple[str, ...]
