"""Says of a field that this base does not know but another kind of base does, that it belongs there."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Set
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from server.api.json_bodies import StrictJsonRoute

FieldPath = tuple[str, ...]


def fields_of(body: type[BaseModel]) -> frozenset[FieldPath]:
    """Of the body and of the objects in it."""
    paths: set[FieldPath] = set()
    for name, field in body.model_fields.items():
        paths.add((name,))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            paths |= {(name, *rest) for rest in fields_of(field.annotation)}
    return frozenset(paths)


def route_without(foreign: Set[FieldPath], why: str) -> type[APIRoute]:
    """A route that refuses the fields ``foreign``, which are in no body of its own, saying ``why``."""

    class Route(StrictJsonRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_or_explain(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    found = [item for item in error.errors() if tuple(item["loc"][1:]) in foreign]
                    if not found:
                        raise
                    raise RequestValidationError([item | {"msg": why} for item in found], body=error.body) from error

            return handle_or_explain

    return Route
