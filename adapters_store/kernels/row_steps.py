"""What C reads of a group's targets: words to patch in, or the differences to add, packed at their first use."""

from __future__ import annotations

import struct
from itertools import accumulate

import torch

from adapters_store.kernels import _native
from adapters_store.kernels.bound import DTYPE_CODES
from adapters_store.kernels.linears import Linears, RowGroup
from adapters_store.kernels.rows import Prepared, RowTargets

BLOCK, QUAD = 48, 4  # as in csrc/rows.h
NOTHING = struct.pack("7q", *[0] * 7)  # struct Targets there, of a weight that is not touched


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
    rows = (struct.pack("7q", *targets.addresses_of(weight), 0, 0, 0, 0) for weight in linears.weights)
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
                0,
            )
            for weight, quad, order in zip(touched, quads, orders, strict=True)
        ],
        dtype=torch.int64,
    ).reshape(-1, 11)  # as struct StepsJob in csrc/rows.h
    _native.steps_count(*how, jobs.data_ptr(), len(jobs))
    ends = list(accumulate((int(quad[-1]) * QUAD for quad in quads), initial=0))
    columns = torch.empty(ends[-1], dtype=torch.uint16)
    deltas = torch.empty(ends[-1], dtype=torch.float32)
    first = torch.tensor(ends[:-1], dtype=torch.int64)
    jobs[:, 9] = columns.data_ptr() + 2 * first
    jobs[:, 10] = deltas.data_ptr() + 4 * first
    _native.steps_fill(*how, jobs.data_ptr(), len(jobs))
    addresses = {weight.data_ptr(): job[7:].tolist() for weight, job in zip(touched, jobs, strict=True)}
    rows = (addresses.get(weight.data_ptr()) for weight in linears.weights)
    table = b"".join(NOTHING if row is None else struct.pack("7q", 0, 0, 0, *row) for row in rows)
    return Prepared(table=table, tensors=(*quads, *orders, columns, deltas))
