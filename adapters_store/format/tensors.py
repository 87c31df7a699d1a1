"""Takes exactly the expected flat tensors out of a container."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adapters_store.container import Header, tensor_at
from adapters_store.container.header import Buffer
from adapters_store.errors import AdapterRejected

VALUE_DTYPES = ("F32", "BF16", "F16")


def read_tensors(
    buffer: Buffer, header: Header, dtypes: Mapping[str, tuple[str, ...]], lengths: Mapping[str, int]
) -> list[Tensor]:
    """The tensors named in ``dtypes``, in that order: these and no others, 1-D, of one of their dtypes, of the length
    that ``lengths`` gives, if any. Raises AdapterRejected."""
    if header.tensors.keys() != dtypes.keys():
        odd = sorted(header.tensors.keys() ^ dtypes.keys())[0]
        got = "it is missing" if odd in dtypes else "one more"
        raise AdapterRejected("tensors", tensor=ascii(odd[:80]), expected=f"exactly {', '.join(dtypes)}", got=got)
    for name, allowed in dtypes.items():
        span = header.tensors[name]
        if span.dtype not in allowed:
            raise AdapterRejected("dtype", tensor=name, expected=" or ".join(allowed), got=span.dtype)
        if len(span.shape) != 1 or span.numel != lengths.get(name, span.numel):
            expected = f"[{lengths[name]}]" if name in lengths else "one dimension"
            raise AdapterRejected("shape", tensor=name, expected=expected, got=str(list(span.shape)))
    return [tensor_at(buffer, header.tensors[name]) for name in dtypes]
