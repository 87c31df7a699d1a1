"""Whether the memory of a server grows, judged where the rate of requests does not decide it.

Memory follows the rate, and the rate of a day rises and falls: a line through its falling half would hide a leak. But
the curve is symmetric, so the second and the third quarter of a run have the same rates, the one on the way up and the
other on the way down: what the third holds more, the server keeps. Caches have filled by the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, variance

from loadtest.samples import Sample

MIB = 2**20
MAX_GAP_SHARE = 1 / 8  # of a run: longer without a sample, and nobody watched it


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """``growth_mib``: mean of the run's third quarter less that of the second, whose middles are a quarter apart;
    ``slope_mib_per_h`` the same per hour. ``error_mib_per_h``: its standard error, as if samples were independent."""

    slope_mib_per_h: float
    error_mib_per_h: float
    growth_mib: float
    peak_mib: float


def growth_of(samples: Sequence[Sample], servers: Iterable[str], *, duration_s: float) -> dict[str, Growth]:
    """Of each server whose samples span the run."""
    found: dict[str, Growth] = {}
    for server in servers:
        points = [(one.at_s, one.rss_bytes / MIB) for one in samples if one.server == server]
        growth = _growth(points, duration_s) if _is_spanned([at_s for at_s, _ in points], duration_s) else None
        if growth is not None:
            found[server] = growth
    return found


def _is_spanned(moments_s: list[float], duration_s: float) -> bool:
    gaps = (later - earlier for earlier, later in pairwise([0.0, *moments_s, duration_s]))
    return max(gaps) <= MAX_GAP_SHARE * duration_s


def _growth(points: Sequence[tuple[float, float]], duration_s: float) -> Growth | None:
    rising = [mib for at_s, mib in points if 0.25 <= at_s / duration_s < 0.5]
    falling = [mib for at_s, mib in points if 0.5 <= at_s / duration_s < 0.75]
    if min(len(rising), len(falling)) < 2:
        return None
    growth_mib, quarter_h = fmean(falling) - fmean(rising), 0.25 * duration_s / 3600
    error_mib = math.sqrt(variance(rising) / len(rising) + variance(falling) / len(falling))
    return Growth(
        slope_mib_per_h=growth_mib / quarter_h,
        error_mib_per_h=error_mib / quarter_h,
        growth_mib=growth_mib,
        peak_mib=max(mib for _, mib in points),
    )
