"""Who has been given how much: virtual counters of weighted service (Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024: VTC).

Between clients that always have something waiting, service over weight differs by at most twice what can be under way
at once: 2 max(PROMPT_TOKEN * longest prompt, NEW_TOKEN * tokens of all that run) (their theorem 4.4)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, TypeVar

from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey

PROMPT_TOKEN = 1.0  # tokens of a prompt are computed together and cost less than new ones
NEW_TOKEN = 2.0

K = TypeVar("K", bound=Hashable)


class Counters(Generic[K]):
    """Service of those who are present. Nobody saves up credit by being away: who comes back starts no lower than the
    least of those present, or than the last one who left. With ``remembers`` off an absent key is forgotten."""

    def __init__(self, *, remembers: bool = True) -> None:
        self._remembers = remembers
        self._service: dict[K, float] = {}
        self._num_present: dict[K, int] = {}
        self._floor = 0.0

    def __getitem__(self, key: K) -> float:
        return self._service[key]

    def join(self, key: K) -> None:
        if key not in self._num_present:
            self._floor = min((self._service[other] for other in self._num_present), default=self._floor)
            self._service[key] = max(self._service.get(key, 0.0), self._floor)
        self._num_present[key] = self._num_present.get(key, 0) + 1

    def leave(self, key: K) -> None:
        self._num_present[key] -= 1
        if self._num_present[key]:
            return
        del self._num_present[key]
        if not self._num_present:
            self._floor = self._service[key]
        if not self._remembers:
            del self._service[key]
            return
        self._service = {k: s for k, s in self._service.items() if k in self._num_present or s > self._floor}

    def charge(self, key: K, service: float) -> None:
        self._service[key] += service


class Ledger:
    """Counters of the clients, and of each client's blends while it has live requests."""

    def __init__(self) -> None:
        self._clients: Counters[str] = Counters()
        self._blends: dict[str, Counters[BlendKey]] = {}
        self._num_live: dict[str, int] = {}

    def join(self, sequence: Sequence) -> None:
        client = sequence.request.client
        self._clients.join(client)
        self._num_live[client] = self._num_live.get(client, 0) + 1
        self._blends.setdefault(client, Counters(remembers=False)).join(sequence.request.blend.key)

    def leave(self, sequence: Sequence) -> None:
        client = sequence.request.client
        self._clients.leave(client)
        self._blends[client].leave(sequence.request.blend.key)
        self._num_live[client] -= 1
        if not self._num_live[client]:
            del self._num_live[client], self._blends[client]

    def charge(self, sequence: Sequence, *, prompt_tokens: int = 0, new_tokens: int = 0) -> None:
        request = sequence.request
        tokens = PROMPT_TOKEN * prompt_tokens + NEW_TOKEN * new_tokens
        service = request.token_cost * tokens / request.weight
        self._clients.charge(request.client, service)
        self._blends[request.client].charge(request.blend.key, service)

    def rank(self, sequence: Sequence) -> tuple[float, float, int]:
        """Least first: the client with least service, its blend with least service, the oldest request."""
        request = sequence.request
        blends = self._blends[request.client]
        return self._clients[request.client], blends[request.blend.key], sequence.order
