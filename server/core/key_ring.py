"""The API keys that open the server now: read at start, and again whenever the operator has changed the file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

from server.core.errors import ConfigError
from server.core.keys import ApiKey
from server.core.settings import ServerConfig

log = logging.getLogger(__name__)


class KeyRing:
    """``keys`` is replaced as a whole, so that a request sees the old ones or the new ones. Any thread."""

    def __init__(self, config: ServerConfig, reload: Callable[[], ServerConfig] | None = None) -> None:
        """``reload`` reads the settings anew, as at start; of them only the keys are taken. Raises ConfigError."""
        self.keys: tuple[ApiKey, ...] = config.api_keys
        self._reload = reload or (lambda: config)
        self._turn = Lock()  # or what was read first could be taken last
        self._asked = SimpleQueue[None]()

    def start(self) -> None:
        """Starts the thread that ``ask`` wakes. It lives as long as the process."""
        Thread(target=self._reread_when_asked, name="keys", daemon=True).start()

    def ask(self) -> None:
        """They are read again soon. For signal handlers: it waits for nothing and needs no new thread."""
        self._asked.put(None)

    def reread(self) -> None:
        """Keeps the keys as they are where the new ones cannot be read, and says so. Where there are keys there will
        be some: without any, everybody would be let in."""
        with self._turn:
            try:
                keys = self._reload().api_keys
            except ConfigError as error:
                log.error("the API keys stay as they were: %s", error)
                return
            if self.keys and not keys:
                log.error("the API keys stay as they were: the settings name none any more")
                return
            self._replace(keys)

    def _reread_when_asked(self) -> None:
        while True:
            self._asked.get()
            try:
                self.reread()
            except Exception:
                log.exception("the API keys stay as they were")

    def _replace(self, keys: tuple[ApiKey, ...]) -> None:
        added, removed = set(keys) - set(self.keys), set(self.keys) - set(keys)
        self.keys = keys
        log.info("API keys read again: %d in force, %d new or changed, %d gone", len(keys), len(added), len(removed))
