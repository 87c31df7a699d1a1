"""Who asks, and what they may do: keys are checked for every route that is not listed as open."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.errors import answer_error
from server.api.foreign_pages import refuse_foreign_pages
from server.core.errors import Forbidden, Unauthenticated
from server.core.key_ring import KeyRing
from server.core.keys import DEFAULT_TENANT, ApiKey, find_key

OPEN_PATHS = frozenset({"/livez", "/readyz", "/openapi.json", "/docs"})
ANYONE = ApiKey(digest=b"", role="admin", tenant=DEFAULT_TENANT)  # when no keys are configured


class Authentication:
    """ASGI middleware: puts the key into ``scope["shira.key"]`` or answers 401 or 403 before the body is read."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing, is_loopback: bool) -> None:
        self._app = app
        self._ring = keys
        self._is_loopback = is_loopback
        self._open_paths = OPEN_PATHS | {"/metrics"} if is_loopback else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                if not self._ring.keys:
                    refuse_foreign_pages(scope["method"], Headers(scope=scope), is_loopback=self._is_loopback)
                    scope["shira.key"] = ANYONE
                elif scope["path"] not in self._open_paths:
                    scope["shira.key"] = self._identify(Headers(scope=scope))
            except (Unauthenticated, Forbidden) as error:
                await answer_error(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _identify(self, headers: Headers) -> ApiKey:
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        secret = rest.strip(" \t").encode("latin-1").decode(errors="surrogateescape")  # as ``hash_secret`` wants it
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated("this route needs the header Authorization: Bearer <key>")
        key = find_key(self._ring.keys, secret)
        if key is None:
            raise Unauthenticated("the key is not known here")
        return key


_bearer = Security(HTTPBearer(auto_error=False, description="An API key, when the server has keys."))


async def current_key(request: Request, _: Annotated[object, _bearer]) -> ApiKey:
    key: ApiKey = request.scope["shira.key"]
    return key


Key = Annotated[ApiKey, Depends(current_key)]


async def admin_key(key: Key) -> ApiKey:
    if not key.may("admin"):
        raise Forbidden("this needs a key with the role admin")
    return key


AdminKey = Annotated[ApiKey, Depends(admin_key)]
