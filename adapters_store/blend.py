"""What one request runs with: a set of (adapter version, scale) and a fusion method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NewType

from adapters_store.adapter import Version, canonical_json, sha256_digest
from adapters_store.errors import BlendRejected

BlendKey = NewType("BlendKey", str)
FusionMethod = Literal["sum", "mean", "ties", "ram"]
FUSION_METHODS: tuple[FusionMethod, ...] = ("sum", "mean", "ties", "ram")

MAX_ADAPTERS_PER_BLEND = 32
MAX_ABS_SCALE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How several adapters become one sparse delta. ``density`` (0, 1]: the share of its own entries that each
    adapter keeps when ``ties`` trims; None keeps all."""

    method: FusionMethod = "sum"
    density: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class BlendMember:
    version: Version
    scale: float


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Members are held in order of version (every method here is commutative), so equal sets have equal keys."""

    members: tuple[BlendMember, ...] = ()
    fusion: Fusion = Fusion()

    def __post_init__(self) -> None:
        check_members(self.members)
        object.__setattr__(self, "members", tuple(sorted(self.members)))

    @property
    def is_base(self) -> bool:
        return not self.members

    @cached_property
    def versions(self) -> tuple[Version, ...]:
        return tuple(member.version for member in self.members)

    @cached_property
    def key(self) -> BlendKey:
        fusion = {"method": self.fusion.method, "density": self.fusion.density} if self.members else None
        members = [[member.version, member.scale] for member in self.members]
        return BlendKey(sha256_digest(canonical_json({"members": members, "fusion": fusion})))


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


BASE = Blend()
