from __future__ import annotations

import errno

import pytest
import torch

from server.core.errors import OutOfMemory, RequestRejected, SwitchFailed
from server.core.memory_shortage import told_of_memory

REFUSALS = (
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB …"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
)
OTHERS = (RuntimeError("shapes do not match"), OSError(errno.ENOSPC, "full"), RequestRejected("stop: 'out of memory'"))


@pytest.mark.parametrize("refusal", REFUSALS, ids=repr)
def test_however_memory_is_refused_it_is_told_so_and_what_came_of_it_too(refusal: Exception) -> None:
    assert isinstance(told_of_memory(refusal), OutOfMemory)
    failed = SwitchFailed(f"the switch failed: {refusal}")
    failed.__cause__ = refusal
    assert isinstance(told_of_memory(failed), OutOfMemory)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_what_has_to_do_with_no_memory_is_told_as_it_is(error: Exception) -> None:
    assert told_of_memory(error) is error
