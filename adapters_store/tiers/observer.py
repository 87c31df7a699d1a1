"""What the tiers tell of themselves. The server wires it to its instruments; tests count with it."""

from __future__ import annotations

from typing import Literal, Protocol

TierName = Literal["device", "host", "redis", "disk"]


class TierObserver(Protocol):
    """Called from any thread, never under a tier's lock; must not block or raise."""

    def hit(self, tier: TierName) -> None:
        """A lookup of one adapter that the tier answered."""
        ...

    def miss(self, tier: TierName) -> None:
        """A lookup of one adapter that the tier passed on."""
        ...

    def fetched(self, tier: TierName, seconds: float) -> None:
        """An adapter was brought to the host from ``tier``, checked and ready, in so many seconds."""
        ...

    def evicted(self, tier: TierName, num_entries: int) -> None: ...

    def held(self, tier: TierName, *, num_adapters: int, num_index_sets: int, num_bytes: int) -> None:
        """What the tier holds now, after a change."""
        ...

    def index_set_bytes_shared(self, num_bytes: int) -> None:
        """Bytes the host tier saves because adapters share index sets."""
        ...

    def redis_up(self, is_up: bool) -> None: ...


class SilentObserver:
    """Tells nobody."""

    def hit(self, tier: TierName) -> None:
        pass

    def miss(self, tier: TierName) -> None:
        pass

    def fetched(self, tier: TierName, seconds: float) -> None:
        pass

    def evicted(self, tier: TierName, num_entries: int) -> None:
        pass

    def held(self, tier: TierName, *, num_adapters: int, num_index_sets: int, num_bytes: int) -> None:
        pass

    def index_set_bytes_shared(self, num_bytes: int) -> None:
        pass

    def redis_up(self, is_up: bool) -> None:
        pass
