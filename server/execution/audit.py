"""Proof that the base is what was loaded: its digest, with the displaced originals where a blend is in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adapters_store.adapter import BLOCK_ELEMENTS, tensor_bytes
from adapters_store.kernels.bound import WORD_DTYPES
from server.core.steps import VerifyReport
from server.execution.staging import Support
from server.execution.weights import BaseWeights, combined_digest

SLICE_BYTES = 16 << 20


def audit(
    weights: BaseWeights, active: Callable[[], Support | None], *, slice_bytes: int = SLICE_BYTES
) -> Iterator[VerifyReport | None]:
    """Yields None after each slice of at most ``slice_bytes``, at last the report.

    ``active`` tells what is in the weights at the time of a slice; it may differ from one slice to the next."""
    digests: dict[str, str] = {}
    num_bytes = 0
    for weight in weights.weights:
        sha = hashlib.sha256()
        for words in _slices(weight.tensor, active, slice_bytes):
            sha.update(tensor_bytes(words))
            num_bytes += words.nbytes
            yield None
        digests[weight.name] = f"sha256:{sha.hexdigest()}"
    mismatched = tuple(weight.name for weight in weights.weights if digests[weight.name] != weight.digest)
    yield VerifyReport(
        ok=not mismatched,
        digest=combined_digest(digests),
        expected=weights.digest,
        num_bytes=num_bytes,
        mismatched=mismatched,
    )


def _slices(tensor: Tensor, active: Callable[[], Support | None], slice_bytes: int) -> Iterator[Tensor]:
    words = tensor.view(-1).view(WORD_DTYPES[tensor.element_size()])  # (numel,)
    step = max(1, slice_bytes // words.element_size() // BLOCK_ELEMENTS) * BLOCK_ELEMENTS
    for start in range(0, words.numel(), step):
        originals = words[start : start + step].to("cpu", copy=True)
        support = active()
        if support is not None:
            _substitute_(originals, start, tensor, support)
        yield originals


def _substitute_(words: Tensor, start: int, tensor: Tensor, support: Support) -> None:
    """Puts the displaced originals of one weight's elements [start, start + len(words)) into ``words``.

    ``start`` is a multiple of the block size, so the entries in question are one run."""
    part = next((part for part in support.bound.parts() if part.weight.data_ptr() == tensor.data_ptr()), None)
    if part is None:
        return
    index_set = support.index_set
    first = part.entry.first_block + start // BLOCK_ELEMENTS
    num_blocks = -(-words.numel() // BLOCK_ELEMENTS)
    offsets = index_set.offsets[first : first + num_blocks + 1].cpu()
    begin, end = int(offsets[0]), int(offsets[-1])
    block_of_entry = torch.repeat_interleave(torch.arange(num_blocks), offsets.diff())
    positions = index_set.indices[begin:end].cpu().to(torch.int64) + block_of_entry * BLOCK_ELEMENTS
    displaced = part.words_of(support.displaced)
    words[positions] = displaced[begin - part.entries.start : end - part.entries.start].cpu()
