"""What every name may be at: pure, one writer per name.

An acknowledged change leaves one state possible. One that was cut leaves two: with it and without. What is observed
must be one of them, and is the only one from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from adapters_store.alias import MAX_HISTORY


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasState:
    """``version`` None: there is no such name. ``history``: every version it can be moved to, oldest first."""

    version: str | None = None
    history: tuple[str, ...] = ()


ABSENT = AliasState()
Change = Callable[[AliasState], AliasState]


def upload_of(version: str) -> Change:
    def change(state: AliasState) -> AliasState:
        known = version in state.history
        history = state.history if known else (*state.history, version)[-MAX_HISTORY:]
        return AliasState(version=version, history=history)

    return change


def move_to(version: str) -> Change:
    return lambda state: AliasState(version=version, history=state.history) if version in state.history else state


def deletion(_: AliasState) -> AliasState:
    return ABSENT


@dataclass(slots=True)
class AliasBook:
    """Each name is written by one thread at a time."""

    possible: dict[str, set[AliasState]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)

    def states(self, name: str) -> set[AliasState]:
        return self.possible.get(name, {ABSENT})

    def certain(self, name: str) -> AliasState | None:
        """The state of the name, unless a change of it was cut."""
        states = self.states(name)
        return next(iter(states)) if len(states) == 1 else None

    def acknowledge(self, name: str, change: Change) -> None:
        self.possible[name] = {change(state) for state in self.states(name)}

    def leave_open(self, name: str, change: Change) -> None:
        """It may have happened or not."""
        self.possible[name] = self.states(name) | {change(state) for state in self.states(name)}

    def observe(self, name: str, state: AliasState) -> bool:
        """False if it cannot be."""
        if state not in self.states(name):
            return False
        self.possible[name] = {state}
        return True

    def observe_revision(self, name: str, revision: int) -> bool:
        """Of an acknowledged change; False unless it is above all before."""
        is_above = revision > self.revisions.get(name, 0)
        self.revisions[name] = revision
        return is_above
