"""``If-Match`` and ``ETag``: the compare-and-set of HTTP over the store's."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from adapters_store.alias import AliasRecord
from server.core.errors import RequestRejected


async def if_match(header: Annotated[str | None, Header(alias="If-Match")] = None) -> str | None:
    """The one etag of the header without its quotes, ``*``, or None."""
    if header is None or header.strip() == "*":
        return header and "*"
    match = re.fullmatch(r'"([\x21\x23-\x7e]{1,200})"', header.strip())
    if match is None:
        raise RequestRejected('If-Match: expected one strong etag such as "3-a1b2", or *', param="If-Match")
    return match[1]


def set_etag(response: Response, record: AliasRecord) -> None:
    response.headers["ETag"] = f'"{record.etag}"'


IfMatch = Annotated[str | None, Depends(if_match)]
