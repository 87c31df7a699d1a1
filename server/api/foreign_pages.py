"""Keeps strangers' web pages out of a server without keys: a browser on this machine sends here what any page asks."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from server.core.errors import Forbidden

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_SHOWN_CHARS = 80


def refuse_foreign_pages(method: str, headers: Headers, *, is_loopback: bool) -> None:
    """Raises Forbidden for what a page of another origin may have asked, by headers that a page cannot set and that
    clients other than browsers do not send.

    On loopback no name but this machine's own is answered to: a page may point its own name here and then read every
    answer (DNS rebinding). A method that is not safe must come from a page of this server or from no page."""
    host = headers.get("host", "")
    if is_loopback and host and not _is_loopback(host):
        _refuse("Host", "localhost or a loopback address", host)
    if method in SAFE_METHODS:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # of two headers that say the same this is the one that knows
        if site not in ("same-origin", "none"):
            _refuse("Sec-Fetch-Site", "same-origin or none", site)
    elif origin is not None and origin.partition("://")[2] != host:
        _refuse("Origin", f"one of {host}", origin)


def _is_loopback(host: str) -> bool:
    """``host`` may have a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refuse(header: str, expected: str, got: str) -> None:
    raise Forbidden(
        f"a server without API keys takes no requests of other web pages: {header}: expected {expected}, "
        f"got {got[:MAX_SHOWN_CHARS]}; give it keys (SHIRA_API_KEYS) to allow that"
    )
