"""What a step takes, by figures measured when the server starts. Seconds everywhere."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

ROWS_PER_PASS = 16  # the correction kernel takes this many decode rows through an entry at once


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """``step_points``: (tokens in the step, seconds) of plain steps, both rising, at least one. ``correction_s``: one
    entry of a mixed group's targets for up to 16 decode rows. ``patch_s``: one prefill chunk of a mixed group.
    ``relate_entry_s``: once for each entry of targets beside a blend, which are made of both.
    ``switch_s`` and ``switch_entry_s``: a switch, and each entry that it writes. The defaults are those of a small
    model on two cores.

    Staging a blend's words is left out: fused or mixed, a blend needs them."""

    step_points: tuple[tuple[int, float], ...] = ((1, 0.015), (32, 0.060), (256, 0.400))
    correction_s: float = 6e-9
    patch_s: float = 0.010
    relate_entry_s: float = 20e-9
    switch_s: float = 0.0005
    switch_entry_s: float = 2e-9

    def step(self, num_tokens: int) -> float:
        """A plain step of so many tokens: between the points a straight line, beyond them the last one goes on."""
        points = self.step_points
        if len(points) == 1 or num_tokens <= points[0][0]:
            return points[0][1]
        above = min(bisect_left(points, (num_tokens, 0.0)), len(points) - 1)
        (low, low_s), (high, high_s) = points[above - 1], points[above]
        return low_s + (high_s - low_s) * (num_tokens - low) / (high - low)

    def correct(self, num_entries: int, num_rows: int) -> float:
        """Decode rows of one mixed group, whose targets differ from what is in the weights at so many entries."""
        return self.correction_s * num_entries * -(-num_rows // ROWS_PER_PASS)

    def relate(self, num_entries: int) -> float:
        """Making the targets of one group beside a blend other than the base: once, at the first step of both."""
        return self.relate_entry_s * num_entries

    def switch(self, num_entries: int) -> float:
        """From a blend of some of these entries to one of the others."""
        return self.switch_s + self.switch_entry_s * num_entries
