"""Where the rows of one step come from: segments of sequences, laid end to end."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from server.runners.page_table import PAGE_TOKENS

BLOCK_ROWS = 8  # rows of one sequence that a kernel takes through its pages together


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """``num_tokens`` rows of a step: positions ``position`` … of the sequence with these ``pages`` (int32)."""

    num_tokens: int
    position: int
    pages: array[int]


class Ragged:
    """The segments of one step in row order, as the operations need them. Made once per step."""

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self.segments = segments
        self.device = device
        self.num_rows = sum(segment.num_tokens for segment in segments)

    @cached_property
    def blocks(self) -> array[int]:
        """int32 (num_blocks, 4): first row, number of rows (at most BLOCK_ROWS), position of the first, where the
        sequence's pages begin in ``page_numbers``."""
        blocks, row, first_page = array("i"), 0, 0
        for segment in self.segments:
            for start in range(0, segment.num_tokens, BLOCK_ROWS):
                num_rows = min(BLOCK_ROWS, segment.num_tokens - start)
                blocks.extend((row + start, num_rows, segment.position + start, first_page))
            row += segment.num_tokens
            first_page += len(segment.pages)
        return blocks

    @cached_property
    def page_numbers(self) -> array[int]:
        """int32: the pages of all segments, one segment after the other."""
        numbers = array("i")
        for segment in self.segments:
            numbers.extend(segment.pages)
        return numbers

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """As struct Ragged in csrc/ops.h."""
        return self.blocks.buffer_info()[0], len(self.blocks) // 4, self.page_numbers.buffer_info()[0]

    @cached_property
    def positions(self) -> Tensor:
        """int64 (num_rows,)"""
        ranges = [torch.arange(each.position, each.position + each.num_tokens) for each in self.segments]
        return torch.cat(ranges).to(self.device)

    @cached_property
    def row_pages(self) -> Tensor:
        """int64 (num_rows,): the page each row's own position lies in."""
        numbers = [
            each.pages[position // PAGE_TOKENS]
            for each in self.segments
            for position in range(each.position, each.position + each.num_tokens)
        ]
        return torch.tensor(numbers, device=self.device)

    @cached_property
    def segment_pages(self) -> list[Tensor]:
        """int64, for each segment the pages up to its last position."""
        last = [(each.position + each.num_tokens - 1) // PAGE_TOKENS for each in self.segments]
        return [
            torch.tensor(each.pages[: page + 1], device=self.device)
            for each, page in zip(self.segments, last, strict=True)
        ]
