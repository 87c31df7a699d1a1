"""What every request pays for before its route begins."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from server.api import adapters, admin, generate, health, overlap


@pytest.mark.parametrize("module", [adapters, admin, generate, health, overlap], ids=lambda module: module.__name__)
def test_no_dependency_of_a_route_takes_a_worker_thread(module: object) -> None:
    """The framework runs plain functions on threads of its own: a hop for each, and 40 more threads under load."""
    routes = [route for route in module.router.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    assert routes
    for route in routes:
        for call in _calls(route.dependant):
            is_async = inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)
            assert is_async or inspect.iscoroutinefunction(type(call).__call__), f"{route.path}: {call}"


def _calls(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)
