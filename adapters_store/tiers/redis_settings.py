"""How the Redis tier is reached and how much it may hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MIB = 1024 * 1024
URL_SCHEMES = ("redis://", "rediss://", "unix://")
RedisMode = Literal["embedded", "off", "url"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """``url`` is for mode "url" only and never printed, since it may carry a password.

    ``values_budget_bytes`` bounds adapter values; index sets are small, shared and always offered.
    ``timeout_s`` bounds connecting and every single command; ``heartbeat_s`` is how soon an idle link's end is noticed.
    """

    mode: RedisMode = "embedded"
    url: str | None = field(default=None, repr=False)
    values_budget_bytes: int = 256 * MIB
    timeout_s: float = 0.5
    heartbeat_s: float = 0.5
    max_backoff_s: float = 2.0

    def __post_init__(self) -> None:
        if (self.mode == "url") != (self.url is not None):
            raise ValueError("redis mode 'url' takes a URL, the other modes take none")
        if self.url is not None and not self.url.startswith(URL_SCHEMES):
            raise ValueError(f"a Redis URL starts with {', '.join(URL_SCHEMES)}")
