"""What a Llama-family decoder does between its linear products: norms, rotary positions, paged attention, gated silu.

A reference in plain torch, C for CPU.
"""

from server.runners.ops.interface import HeadNorms, LayerPages, Norm, Ops, RopeTable
from server.runners.ops.ragged import Ragged, Segment
from server.runners.ops.select import available_ops, get_ops

__all__ = ["HeadNorms", "LayerPages", "Norm", "Ops", "Ragged", "RopeTable", "Segment", "available_ops", "get_ops"]
