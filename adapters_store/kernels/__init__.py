"""What can be done with sparse deltas: scan, union, stage, exchange.

A reference in plain torch, C for CPU, Triton for CUDA.
"""

from adapters_store.kernels.blocks import IndexFault
from adapters_store.kernels.bound import Bound, bind, new_words
from adapters_store.kernels.interface import Journal, Kernels, Staging, UnionMember, rollback
from adapters_store.kernels.select import available_kernels, get_kernels

__all__ = [
    "Bound",
    "IndexFault",
    "Journal",
    "Kernels",
    "Staging",
    "UnionMember",
    "available_kernels",
    "bind",
    "get_kernels",
    "new_words",
    "rollback",
]
