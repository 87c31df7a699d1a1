"""THE FORMAT: reads, validates and writes adapters; every byte is hostile. Normative text: ``docs/format.md``."""

from adapters_store.container import Limits, read_header
from adapters_store.format.blobs import decode_index_set, decode_values, encode_index_set, encode_values
from adapters_store.format.native import ParsedUpload, read_adapter, write_adapter
from adapters_store.format.packing import Positions, pack_positions, unpack_positions

__all__ = [
    "Limits",
    "ParsedUpload",
    "Positions",
    "decode_index_set",
    "decode_values",
    "encode_index_set",
    "encode_values",
    "pack_positions",
    "read_adapter",
    "read_header",
    "unpack_positions",
    "write_adapter",
]
