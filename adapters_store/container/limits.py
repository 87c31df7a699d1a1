"""What a file may ask of a reader, by name. A file past one of these is refused before the rest of it is read."""

from __future__ import annotations

from dataclasses import dataclass

from adapters_store.errors import LimitExceeded

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The defaults fit adapters of models up to some 100 B parameters at 1 %."""

    file_bytes: int = 8 * GIB
    header_bytes: int = 4 * MIB
    tensors: int = 16_384
    weights: int = 8_192
    entries: int = 1 << 30
    rank: int = 8
    dimension: int = 1 << 40
    name_bytes: int = 256
    card_bytes: int = 64 * KIB
    config_bytes: int = 1 * MIB
    json_depth: int = 16

    def check(self, limit: str, got: int, *, tensor: str | None = None) -> None:
        """Raises LimitExceeded when ``got`` is above the limit of that name."""
        allowed: int = getattr(self, limit)
        if got > allowed:
            raise LimitExceeded(limit, tensor=tensor, expected=f"at most {allowed}", got=str(got))


DEFAULT_LIMITS = Limits()
CHECKPOINT_LIMITS = Limits(
    file_bytes=1 << 62,
    header_bytes=100 * MIB,
    tensors=1_000_000,
    weights=1_000_000,
    entries=1 << 62,
    name_bytes=4 * KIB,
)
