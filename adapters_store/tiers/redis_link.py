"""The link to Redis: up, or down and coming back by itself. Nothing here waits for a Redis that does not answer."""

from __future__ import annotations

import logging
import random
import secrets
from collections import Counter
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import OutOfMemoryError, RedisError

from adapters_store.tiers.observer import TierObserver
from adapters_store.tiers.redis_settings import RedisSettings

log = logging.getLogger(__name__)
FIRST_BACKOFF_S = 0.05
START_TIMEOUT_S = 15.0  # for what no socket timeout bounds: names to be resolved, a server of our own to start


class RedisDown(Exception):
    """The link is down, or went down in this call."""


class RedisFull(Exception):
    """Redis has no memory for this write; the link is up."""


class Client(Protocol):
    """What is used of ``redis.Redis``: commands as they are on the wire."""

    def execute_command(self, *command: Any) -> Any: ...

    def pubsub(self) -> Any: ...

    def close(self) -> None: ...


class Endpoint(Protocol):
    def connect(self) -> Client:
        """A client that has sent nothing yet; a server of our own is started first. Raises OSError, RedisError."""
        ...

    def close(self) -> None: ...


class LinkListener(Protocol):
    """Called on the supervisor thread; must return soon."""

    def up(self) -> None:
        """After every connect, and whenever Redis was found emptied."""
        ...

    def news(self, message: bytes) -> None:
        """A message on the news channel."""
        ...

    def beat(self) -> None:
        """Every ``heartbeat_s`` while the link is up."""
        ...


class RedisLink:
    """``call`` from any thread; a supervisor thread connects, listens to the news channel and feels the pulse.

    The breaker opens at the first error or timeout of any call: from then on ``call`` raises RedisDown at once, until
    the supervisor has connected anew.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: RedisSettings,
        *,
        prefix: str,
        observer: TierObserver,
    ) -> None:
        self.prefix = prefix
        self._endpoint = endpoint
        self._settings = settings
        self._observer = observer
        self._lock = Lock()
        self._client: Client | None = None  # None: the breaker is open
        self._num_users: Counter[Client] = Counter()  # calls in it, and the supervisor
        self._epoch = b""
        self._stopping = Event()
        self._tried = Event()
        self._was_up = False
        self._thread: Thread | None = None

    @property
    def is_up(self) -> bool:
        return self._client is not None

    @property
    def news_channel(self) -> str:
        return f"{self.prefix}news"

    def start(self, listener: LinkListener) -> None:
        """Returns when the first attempt to connect is over, either way."""
        self._observer.redis_up(False)
        self._thread = Thread(target=self._supervise, args=(listener,), name="shira-redis-link", daemon=True)
        self._thread.start()
        self._tried.wait(START_TIMEOUT_S)

    def close(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(START_TIMEOUT_S)
        self._endpoint.close()

    def call(self, *command: str | bytes | int | memoryview) -> Any:
        """The reply to one command. Raises RedisDown, RedisFull."""
        with self._lock:
            client = self._client
            if client is None:
                raise RedisDown("the Redis link is down")
            self._num_users[client] += 1
        try:
            return client.execute_command(*command)
        except OutOfMemoryError as error:
            raise RedisFull(str(error)) from error
        except (RedisError, OSError) as error:
            self._open_breaker(client, error)
            raise RedisDown(str(error)) from error
        finally:
            self._leave(client)

    def run_script(self, script: str, *arguments: str | bytes | int) -> Any:
        """As ``call``; scripts build their keys from the prefix, which is their first argument."""
        return self.call("EVAL", script, 0, self.prefix, *arguments)

    def _supervise(self, listener: LinkListener) -> None:
        num_failures = 0
        while not self._stopping.is_set():
            self._was_up = False
            try:
                self._serve(listener)
            except (RedisError, OSError) as error:
                if self._was_up or num_failures == 0:
                    log.warning("Redis cannot be reached, trying on: %s", error)
            except Exception:  # the supervisor outlives every surprise
                log.exception("Redis link")
            num_failures = 0 if self._was_up else num_failures + 1
            self._tried.set()
            longest_s = min(self._settings.max_backoff_s, FIRST_BACKOFF_S * 2.0 ** min(num_failures, 16))
            self._stopping.wait(longest_s * random.uniform(0.5, 1.0))  # noqa: S311  (jitter, no secret)

    def _serve(self, listener: LinkListener) -> None:
        """One connection from first to last; returns or raises once it is lost."""
        client = self._endpoint.connect()
        with self._lock:
            self._num_users[client] = 1
        pubsub = client.pubsub()
        try:
            client.execute_command("PING")
            pubsub.subscribe(self.news_channel)
            if pubsub.get_message(timeout=self._settings.timeout_s) is None:
                raise TimeoutError("no answer to SUBSCRIBE")
            self._enter_epoch(client)
            self._close_breaker(client)
            listener.up()
            self._tried.set()
            self._listen(client, pubsub, listener)
        finally:
            self._open_breaker(client)
            pubsub.close()
            self._leave(client)

    def _listen(self, client: Client, pubsub: Any, listener: LinkListener) -> None:
        beat_at = monotonic()
        while self._client is client and not self._stopping.is_set():
            message = pubsub.get_message(timeout=max(0.0, beat_at - monotonic()))
            if message is not None and message["type"] == "message":
                listener.news(message["data"])
            if monotonic() >= beat_at:
                if self._enter_epoch(client):
                    log.warning("Redis was emptied; offering everything anew")
                    listener.up()
                listener.beat()
                beat_at = monotonic() + self._settings.heartbeat_s

    def _enter_epoch(self, client: Client) -> bool:
        """Leaves a mark that goes when the data go. True if it is not the mark known before."""
        key = f"{self.prefix}epoch"
        client.execute_command("SET", key, secrets.token_hex(8), "NX")
        epoch = client.execute_command("GET", key)
        is_new: bool = epoch != self._epoch
        self._epoch = epoch
        return is_new

    def _leave(self, client: Client) -> None:
        """The last one closes it. The calls of other threads that are still in it would fail in ways that redis-py has
        no error for."""
        with self._lock:
            self._num_users[client] -= 1
            is_last = not self._num_users[client]
            if is_last:
                del self._num_users[client]
        if is_last:
            client.close()

    def _close_breaker(self, client: Client) -> None:
        with self._lock:
            self._client = client
            self._was_up = True
        self._observer.redis_up(True)
        log.info("Redis link is up")

    def _open_breaker(self, client: Client, error: Exception | None = None) -> None:
        with self._lock:
            if self._client is not client:
                return
            self._client = None
        self._observer.redis_up(False)
        if error is not None:
            log.warning("Redis link is down: %s", error)
