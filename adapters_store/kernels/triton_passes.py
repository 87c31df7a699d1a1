"""The device code: one program per block with entries, raw addresses from the table of visits.

``visits`` int64 (num_blocks, 6): the rows of ``Bound.visits`` for one word width, on the device. ``words`` and
``displaced`` are words buffers. ``word_t`` is tl.int16 or tl.int32.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-redef"
# ruff: noqa: PLR0917, PLR0124

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exchange_pass(visits, indices, words, displaced, word_t: tl.constexpr, chunk: tl.constexpr):
    row = visits + tl.program_id(0).to(tl.int64) * 6
    data = tl.load(row).to(tl.pointer_type(word_t))
    local_indices = indices + tl.load(row + 2)
    count = tl.load(row + 3)
    start_bytes = tl.load(row + 4)
    new = (words + start_bytes).to(tl.pointer_type(word_t), bitcast=True)
    old = (displaced + start_bytes).to(tl.pointer_type(word_t), bitcast=True)
    for start in range(0, count, chunk):
        lanes = start + tl.arange(0, chunk)
        mask = lanes < count
        at = tl.load(local_indices + lanes, mask=mask, other=0).to(tl.int32) & 0xFFFF
        tl.store(old + lanes, tl.load(data + at, mask=mask), mask=mask)
        tl.store(data + at, tl.load(new + lanes, mask=mask), mask=mask)


@triton.jit
def overwrite_pass(visits, indices, words, word_t: tl.constexpr, chunk: tl.constexpr):
    row = visits + tl.program_id(0).to(tl.int64) * 6
    data = tl.load(row).to(tl.pointer_type(word_t))
    local_indices = indices + tl.load(row + 2)
    count = tl.load(row + 3)
    new = (words + tl.load(row + 4)).to(tl.pointer_type(word_t), bitcast=True)
    for start in range(0, count, chunk):
        lanes = start + tl.arange(0, chunk)
        mask = lanes < count
        at = tl.load(local_indices + lanes, mask=mask, other=0).to(tl.int32) & 0xFFFF
        tl.store(data + at, tl.load(new + lanes, mask=mask), mask=mask)


@triton.jit
def switch_pass(
    pairs, out_indices, out_displaced, into_indices, words, displaced, word_t: tl.constexpr, chunk: tl.constexpr
):
    """``pairs`` int64 (num_blocks, 12): a row of visits of ``out``, then one of ``into``; count 0 for none."""
    row = pairs + tl.program_id(0).to(tl.int64) * 12
    data = tl.load(row).to(tl.pointer_type(word_t))
    out_local = out_indices + tl.load(row + 2)
    out_count = tl.load(row + 3)
    originals = (out_displaced + tl.load(row + 4)).to(tl.pointer_type(word_t), bitcast=True)
    for start in range(0, out_count, chunk):
        lanes = start + tl.arange(0, chunk)
        mask = lanes < out_count
        at = tl.load(out_local + lanes, mask=mask, other=0).to(tl.int32) & 0xFFFF
        tl.store(data + at, tl.load(originals + lanes, mask=mask), mask=mask)
    tl.debug_barrier()  # another thread of this program may read what this one has restored
    into_local = into_indices + tl.load(row + 8)
    into_count = tl.load(row + 9)
    start_bytes = tl.load(row + 10)
    new = (words + start_bytes).to(tl.pointer_type(word_t), bitcast=True)
    old = (displaced + start_bytes).to(tl.pointer_type(word_t), bitcast=True)
    for start in range(0, into_count, chunk):
        lanes = start + tl.arange(0, chunk)
        mask = lanes < into_count
        at = tl.load(into_local + lanes, mask=mask, other=0).to(tl.int32) & 0xFFFF
        tl.store(old + lanes, tl.load(data + at, mask=mask), mask=mask)
        tl.store(data + at, tl.load(new + lanes, mask=mask), mask=mask)


@triton.jit
def stage_pass(visits, indices, delta, words, num_lost, word_t: tl.constexpr, dtype: tl.constexpr, chunk: tl.constexpr):
    """Rounds as the reference does; ``dtype`` 0 float32, 1 bfloat16, 2 float16. Adds to ``num_lost`` int32 (1,)."""
    row = visits + tl.program_id(0).to(tl.int64) * 6
    data = tl.load(row).to(tl.pointer_type(word_t))
    entry = tl.load(row + 2)
    count = tl.load(row + 3)
    out = (words + tl.load(row + 4)).to(tl.pointer_type(word_t), bitcast=True)
    for start in range(0, count, chunk):
        lanes = start + tl.arange(0, chunk)
        mask = lanes < count
        at = tl.load(indices + entry + lanes, mask=mask, other=0).to(tl.int32) & 0xFFFF
        current = tl.load(data + at, mask=mask, other=0)
        added = tl.load(delta + entry + lanes, mask=mask, other=0.0)
        if dtype == 0:
            bits = (current.to(tl.float32, bitcast=True) + added).to(tl.uint32, bitcast=True)
            word = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC00000, bits).to(tl.int32, bitcast=True)
            exponent: tl.constexpr = 0x7F800000
        elif dtype == 1:
            wide = (current.to(tl.int32) << 16).to(tl.float32, bitcast=True)
            bits = (wide + added).to(tl.uint32, bitcast=True)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            word = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC0, rounded).to(tl.int16)
            exponent: tl.constexpr = 0x7F80
        else:
            total = current.to(tl.float16, bitcast=True).to(tl.float32) + added
            rounded = total.to(tl.float16).to(tl.int16, bitcast=True)
            word = tl.where(total != total, 0x7E00, rounded).to(tl.int16)
            exponent: tl.constexpr = 0x7C00
        tl.store(out + lanes, word, mask=mask)
        is_lost = ((word & exponent) == exponent) & ((current & exponent) != exponent) & mask
        tl.atomic_add(num_lost + tl.full((chunk,), 0, tl.int32), 1, mask=is_lost)
