"""The safetensors container: one parser that trusts nothing, one writer whose bytes are a function of its input."""

from adapters_store.container.header import Header, TensorSpan, read_header, tensor_at
from adapters_store.container.limits import DEFAULT_LIMITS, Limits
from adapters_store.container.mapping import map_file
from adapters_store.container.strict_json import parse_json
from adapters_store.container.writing import TensorPart, container_parts

__all__ = [
    "DEFAULT_LIMITS",
    "Header",
    "Limits",
    "TensorPart",
    "TensorSpan",
    "container_parts",
    "map_file",
    "parse_json",
    "read_header",
    "tensor_at",
]
