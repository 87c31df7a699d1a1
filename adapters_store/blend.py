"""What one request runs with: a set of (adapter version, scale) and a fusion method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NewType

from adapters_store.adapter import Version, canonical_json, sha256_digest
from adapters_store.errors import BlendRejected

BlendKey = NewType("BlendKey", str)
DeltaMethod = Literal["sum", "mean", "ties", "ram"]  # several adapters become one sparse delta
StepwiseMethod = Literal["switch", "composite"]  # adapters take turns over the steps of a denoising loop
FusionMethod = DeltaMethod | StepwiseMethod
DELTA_METHODS: tuple[DeltaMethod, ...] = ("sum", "mean", "ties", "ram")
STEPWISE_METHODS: tuple[StepwiseMethod, ...] = ("switch", "composite")

MAX_ADAPTERS_PER_BLEND = 32
MAX_ABS_SCALE = 100.0
MAX_EVERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How several adapters work together: as one sparse delta (``adapters_store.fusion``), or step by step of a
    denoising loop (Multi-LoRA Composition, arXiv 2402.16843): ``switch`` has one adapter in the weights for ``every``
    steps, then the next, in a cycle; ``composite`` averages the guided noise of all adapters in every step.

    ``density`` (0, 1]: the share of its own entries that each adapter keeps when ``ties`` trims; None keeps all.
    ``every``: for ``switch`` alone, where None becomes 1."""

    method: FusionMethod = "sum"
    density: float | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        if self.method == "switch" and self.every is None:
            object.__setattr__(self, "every", 1)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class BlendMember:
    version: Version
    scale: float


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Members are held in order of version, so that equal sets have equal keys; those of ``switch``, where the order
    is the order of turns, as they were given."""

    members: tuple[BlendMember, ...] = ()
    fusion: Fusion = Fusion()

    def __post_init__(self) -> None:
        check_members(self.members)
        check_fusion(self.fusion)
        if self.fusion.method != "switch":
            object.__setattr__(self, "members", tuple(sorted(self.members)))

    @property
    def is_base(self) -> bool:
        return not self.members

    @property
    def is_stepwise(self) -> bool:
        """Whether several parts take turns in the weights while one request runs."""
        return len(self.parts) > 1

    @cached_property
    def parts(self) -> tuple[Blend, ...]:
        """What is in the weights at one time: each member alone for ``switch`` and ``composite``, else the blend."""
        if self.is_base or self.fusion.method not in STEPWISE_METHODS:
            return (self,)
        return tuple(Blend(members=(member,)) for member in self.members)

    def part_at(self, step: int) -> Blend:
        """The part whose turn the denoising step is, counted from 0. Not for ``composite``."""
        if self.is_stepwise and self.fusion.method == "composite":
            raise AssertionError("every step of composite runs all parts")
        return self.parts[step // (self.fusion.every or 1) % len(self.parts)]

    @property
    def min_steps(self) -> int:
        """The fewest denoising steps in which each part has its turn."""
        return 1 + (self.fusion.every or 0) * (len(self.parts) - 1)

    @cached_property
    def versions(self) -> tuple[Version, ...]:
        return tuple(member.version for member in self.members)

    @cached_property
    def key(self) -> BlendKey:
        """Of what runs, not of how it was asked for: one member that takes turns with nobody has the key of ``sum``."""
        members = [[member.version, member.scale] for member in self.members]
        return BlendKey(sha256_digest(canonical_json({"members": members, "fusion": self._fusion_in_key()})))

    def _fusion_in_key(self) -> dict[str, object] | None:
        if self.is_base:
            return None
        fusion = self.fusion if self.is_stepwise else self.parts[0].fusion
        in_key: dict[str, object] = {"method": fusion.method, "density": fusion.density}
        return in_key if fusion.every is None else {**in_key, "every": fusion.every}


def check_members(members: tuple[BlendMember, ...]) -> None:
    """Refuses what no mode can run. Raises BlendRejected naming the limit."""
    if len(members) > MAX_ADAPTERS_PER_BLEND:
        raise BlendRejected(f"a blend takes at most {MAX_ADAPTERS_PER_BLEND} adapters, got {len(members)}")
    seen: set[Version] = set()
    for member in members:
        if not math.isfinite(member.scale) or abs(member.scale) > MAX_ABS_SCALE:
            raise BlendRejected(f"scale must be finite and within ±{MAX_ABS_SCALE:g}, got {member.scale}")
        if member.version in seen:
            raise BlendRejected(f"the adapter version {member.version} appears twice in one blend")
        seen.add(member.version)


def check_fusion(fusion: Fusion) -> None:
    """Refuses options that the method does not have, and what is outside their limits. Raises BlendRejected."""
    method, density, every = fusion.method, fusion.density, fusion.every
    if density is not None and not (method == "ties" and 0 < density <= 1):
        raise BlendRejected(f"density is for ties and within (0, 1], got {density} for {method}")
    if every is not None and not (method == "switch" and 1 <= every <= MAX_EVERY):
        raise BlendRejected(f"every is for switch and within 1..{MAX_EVERY}, got {every} for {method}")


BASE = Blend()
