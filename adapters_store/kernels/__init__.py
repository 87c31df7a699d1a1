"""What can be done with sparse deltas: scan, union, stage, exchange; and products whose rows run with different blends.

A reference in plain torch, C for CPU, Triton for CUDA.
"""

from adapters_store.kernels.blocks import IndexFault
from adapters_store.kernels.bound import Bound, bind, new_words
from adapters_store.kernels.interface import Journal, Kernels, Staging, UnionMember, rollback
from adapters_store.kernels.linears import Linears, RowGroup, RowPlan
from adapters_store.kernels.resolve import resolve
from adapters_store.kernels.rows import RowLayout, RowTargets
from adapters_store.kernels.rows_interface import RowKernels
from adapters_store.kernels.select import available_kernels, get_kernels, get_row_kernels

__all__ = [
    "Bound",
    "IndexFault",
    "Journal",
    "Kernels",
    "Linears",
    "RowGroup",
    "RowKernels",
    "RowLayout",
    "RowPlan",
    "RowTargets",
    "Staging",
    "UnionMember",
    "available_kernels",
    "bind",
    "get_kernels",
    "get_row_kernels",
    "new_words",
    "resolve",
    "rollback",
]
