from __future__ import annotations

import importlib.util
import logging
import sys

import pytest

from adapters_store.kernels import available_kernels, get_kernels
from adapters_store.kernels.select import _warn_once

HAS_NATIVE = importlib.util.find_spec("adapters_store.kernels._native") is not None


@pytest.mark.skipif(not HAS_NATIVE, reason="the C extension is not built")
def test_the_fastest_kernels_come_first_and_the_reference_last() -> None:
    names = available_kernels("cpu")
    assert names[-2:] == ("c-scalar", "reference")
    assert get_kernels("cpu").name == names[0]


def test_each_name_gives_the_kernels_of_that_name() -> None:
    for name in available_kernels("cpu"):
        assert get_kernels("cpu", prefer=name).name == name


def test_kernels_that_cannot_run_here_are_refused_with_those_that_can() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*reference on cpu, got 'triton'"):
        get_kernels("cpu", prefer="triton")


def test_without_the_extension_the_reference_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.endswith("_native") else found(name, *rest)
    )
    monkeypatch.delitem(sys.modules, "adapters_store.kernels.native", raising=False)
    _warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert get_kernels().name == "reference"
        assert get_kernels().name == "reference"
    (record,) = caplog.records
    assert "C extension was not built" in record.getMessage()
