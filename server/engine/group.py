"""The live requests of one blend, and where its bytes are."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from server.core.steps import Survey
from server.engine.sequence import Sequence

if TYPE_CHECKING:
    from adapters_store.blend import Blend


Place = Literal["wanted", "loading", "host"]


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """``place``: its bytes are asked for as soon as there is room (``wanted``), on their way, or on the host. Steps
    are counted by the scheduler."""

    blend: Blend
    place: Place
    since: int  # the step in which ``place`` became what it is
    last_ran: int  # the step in which one of its rows last ran, or its bytes came
    last_in: int = 0  # the step in which it was last in the weights, or its bytes came
    load: int = 0  # tells the load under way from earlier ones of this blend
    is_closing: bool = False  # its bytes go as soon as nobody is owed a token any more; nobody else starts
    is_load_alone: bool = True  # nobody else held bytes at any moment of the load
    survey: Survey = field(default_factory=lambda: Survey(num_entries=0, is_mixable=True))
    waiting: list[Sequence] = field(default_factory=list)  # in order of arrival
    running: list[Sequence] = field(default_factory=list)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    @property
    def is_ready(self) -> bool:
        return self.place == "host"

    def wait(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=lambda other: other.order)
