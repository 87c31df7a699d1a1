"""A server somewhere, as the command line talks to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 900.0  # a large upload is checked before it is answered


class Remote:
    """Every call raises ClickException with one clear line when it does not succeed."""

    def __init__(self, url: str, key: str | None) -> None:
        import httpx

        self._url = url.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=self._url,
                headers={b"Authorization": f"Bearer {key}".encode(errors="surrogateescape")} if key else {},
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            )
        except httpx.InvalidURL as error:
            raise click.UsageError(f"{self._url}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, *, sent: Path | None = None, **options: Any) -> httpx.Response:
        """``options`` as in ``httpx.Client.request``. ``sent`` is the file or directory that a 422 speaks of."""
        import httpx

        try:
            response = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            problem = str(error) or type(error).__name__
            raise click.ClickException(f"cannot reach {self._url}: {problem}; is the server running?") from error
        if not response.is_success:
            about = f"{sent}: " if sent is not None and response.status_code == 422 else ""
            raise click.ClickException(f"{response.status_code}: {about}{_message(response)}")
        return response

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.call(method, path, **options).json()
        return answer


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--url`` and ``--key``, handed on as one ``Remote``."""

    @wraps(command)
    def with_remote(url: str, key: str | None, **arguments: Any) -> Any:
        with Remote(url, key) as remote:
            return command(remote=remote, **arguments)

    with_key = click.option("--key", envvar="SHIRA_KEY", show_envvar=True, help="API key; better in the environment.")
    with_url = click.option("--url", envvar="SHIRA_URL", default=DEFAULT_URL, show_default=True, show_envvar=True)
    return with_url(with_key(with_remote))


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"not an answer of this server: {response.text[:200]!r}"
