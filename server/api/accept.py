"""Which of several media types an Accept header likes best (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer of the highest quality; among equals one that is named rather than meant by a ``*``, then the first.
    None if the header takes none of them. A header that says nothing takes all."""
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    return best if _quality(best, ranges)[0] > 0 else None


def _range(part: str) -> tuple[str, float]:
    """A media range and its quality; 1 where none is stated, or none that can be read."""
    media, *parameters = (piece.strip() for piece in part.split(";"))
    stated = [float(match[1]) for piece in parameters if (match := QUALITY.fullmatch(piece))]
    return media.lower(), stated[0] if stated else 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """What the range that names the offer most closely says of it, and how closely it does: 0 to 2."""
    names = ("*/*", offer.partition("/")[0] + "/*", offer)
    closeness, quality = max(
        ((names.index(media), quality) for media, quality in ranges if media in names), default=(0, 0.0)
    )
    return quality, closeness
