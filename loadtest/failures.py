"""What fails beside the requests of a run: a server, a scrape, the generator. It is told, and the run is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.core.errors import ServerError


@contextmanager
def noted(failures: list[str]) -> Iterator[None]:
    """Adds what fails within, once. The list may be shared by threads."""
    try:
        yield
    except ServerError as error:
        if str(error) not in failures:
            failures.append(str(error))
