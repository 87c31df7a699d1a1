"""What C reads of a group's targets: words to patch in, or the differences to add, packed at their first use."""

from __future__ import annotations

import struct
from itertools import accumulate

import torch

from adapters_store.kernels import _native
from adapters_store.kernels.bound import DTYPE_CODES
from adapters_store.kernels.linears import Linears, RowGroup
from adapters_store.kernels.rows import Prepared, RowTargets

BLOCK, QUAD, STEP_BYTES = 48, 4, 24  # as in csrc/rows.h
NOTHING = struct.pack("6q", *[0] * 6)  # struct Targets there, of a weight that is not touched


def targets_table(how: tuple[int, int], group: RowGroup, linears: Linears, *, is_patched: bool) -> bytes:
    """A struct Targets (csrc/rows.h) for each weight. ``how``: instruction set and threads."""
    if group.targets is None:
        return NOTHING * len(linears.pairs)
    key = (b"words" if is_patched else b"steps") + linears.key
    prepared = group.targets.prepared.get(key)
    if prepared is None:
        prepared = _words(group.targets, linears) if is_patched else _steps(how, group.targets, linears)
        group.targets.prepared[key] = prepared
    return prepared.table


def _words(targets: RowTargets, linears: Linears) -> Prepared:
    rows = (struct.pack("6q", *targets.addresses_of(weight), 0, 0, 0) for weight in linears.weights)
    return Prepared(table=b"".join(rows), tensors=())


def _steps(how: tuple[int, int], targets: RowTargets, linears: Linears) -> Prepared:
    touched = [weight for weight in linears.weights if targets.layout.part_of(weight) is not None]
    num_blocks = [-(-len(weight) // BLOCK) for weight in touched]
    quads = [torch.empty(number * (BLOCK // QUAD) + 1, dtype=torch.int32) for number in num_blocks]
    orders = [torch.empty(number * BLOCK, dtype=torch.uint8) for number in num_blocks]
    jobs = torch.tensor(
        [
            (
                *targets.addresses_of(weight),
                weight.data_ptr(),
                *weight.shape,
                DTYPE_CODES[weight.dtype],
                quad.data_ptr(),
                order.data_ptr(),
                0,
            )
            for weight, quad, order in zip(touched, quads, orders, strict=True)
        ],
        dtype=torch.int64,
    ).reshape(-1, 10)  # as struct StepsJob in csrc/rows.h
    _native.steps_count(*how, jobs.data_ptr(), len(jobs))
    starts = list(accumulate((int(quad[-1]) for quad in quads), initial=0))
    steps = torch.empty(starts[-1] * STEP_BYTES, dtype=torch.uint8)
    jobs[:, 9] = steps.data_ptr() + STEP_BYTES * torch.tensor(starts[:-1], dtype=torch.int64)
    _native.steps_fill(*how, jobs.data_ptr(), len(jobs))
    addresses = {weight.data_ptr(): job[7:].tolist() for weight, job in zip(touched, jobs, strict=True)}
    rows = (addresses.get(weight.data_ptr()) for weight in linears.weights)
    table = b"".join(NOTHING if row is None else struct.pack("6q", 0, 0, 0, *row) for row in rows)
    return Prepared(table=table, tensors=(*quads, *orders, steps))
