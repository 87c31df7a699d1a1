from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from adapters_store import errors as stored
from server.api.errors import TABLE, classify, error_body
from server.core import errors as core

NOT_FOR_CLIENTS = {
    core.ServerError,
    core.ConfigError,
    stored.AdapterStoreError,
    stored.BaseUnreadable,
    stored.DataDirLocked,
    stored.EmbeddedRedisUnavailable,
    stored.TrainingRefused,
}  # happen before anything is served


def errors_of(module: ModuleType) -> list[type[Exception]]:
    return [found for _, found in inspect.getmembers(module, inspect.isclass) if issubclass(found, Exception)]


@pytest.mark.parametrize("error", [*errors_of(core), *errors_of(stored)], ids=lambda error: error.__name__)
def test_every_error_that_can_reach_a_client_is_in_the_table(error: type[Exception]) -> None:
    assert (error in TABLE) != (error in NOT_FOR_CLIENTS)


def test_the_nearest_class_of_the_ancestry_decides() -> None:
    mismatch = stored.BaseMismatch("base", tensor="t", expected="a", got="b")
    assert (classify(mismatch).status, classify(mismatch).code) == (422, "adapter_base_mismatch")
    assert classify(ZeroDivisionError()).code == "internal_error"


def test_an_error_of_no_row_keeps_its_text_to_itself() -> None:
    body = error_body(RuntimeError("/secret/path"))
    assert "secret" not in str(body)
