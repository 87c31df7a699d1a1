"""Whose bytes are brought to the host next, and who makes room when they do not all fit there."""

from __future__ import annotations

from collections.abc import Callable, Collection

from server.engine.group import Group

MAX_LOADS = 4  # the loader has so many threads; more would be loaded in its order, not in ours

Rank = Callable[[Group], tuple[float, float, int]]


class Loads:
    """Groups hold their bytes from the load to their last request. When the host has no room for another group's, that
    group waits until one lets go; it fails only if its bytes do not fit with nobody else holding any.

    A group that has wanted bytes for more than ``patience_steps`` is the next to get them, the one that wanted them
    first before others. If there is no room even so, the most served of the groups that have had theirs for
    ``hold_steps`` gives way, as soon as those of its sequences have their token that are owed one by then."""

    def __init__(self, *, patience_steps: int, hold_steps: int) -> None:
        self._patience_steps = patience_steps
        self._hold_steps = hold_steps
        self._is_full = False  # the last load found no room, and nobody has let go since
        self._num_loads = 0

    def start(self, groups: Collection[Group], rank: Rank, step: int) -> list[Group]:
        """Those to ask the loader for now."""
        wanted = [group for group in groups if group.place == "wanted"]
        num_loading = sum(group.place == "loading" for group in groups)
        if not wanted or self._is_full or num_loading >= MAX_LOADS:
            return []
        late = [group for group in wanted if self._is_late(group, step)]
        starting = [min(late, key=lambda group: group.since)] if late else sorted(wanted, key=rank)
        starting = starting[: MAX_LOADS - num_loading]
        for group in starting:
            self._num_loads += 1
            group.load = self._num_loads
            group.place, group.since = "loading", step
        self._mark_company(groups)
        return starting

    def find_no_room(self, group: Group, groups: Collection[Group], step: int) -> bool:
        """The host is full of what others hold: the group waits. False if its bytes will never fit."""
        if group.is_load_alone:
            return False
        group.place = "wanted"
        self._is_full = bool(_holding(groups))
        return True

    def let_go(self) -> None:
        """A group's bytes were released."""
        self._is_full = False

    def giving_way(self, groups: Collection[Group], rank: Rank, step: int) -> Group | None:
        """The group to take the bytes from now, for one that has waited for them too long."""
        is_needed = self._is_full and any(group.place == "wanted" and self._is_late(group, step) for group in groups)
        ready = [group for group in _holding(groups) if group.is_ready]
        closing = [group for group in ready if group.is_closing]
        if not is_needed:
            for group in closing:
                group.is_closing = False
            return None
        if not closing:
            closing = [group for group in ready if group.since + self._hold_steps <= step]
            closing = [max(closing, key=rank)] if closing else []
        for group in closing:
            group.is_closing = True
        return next((group for group in closing if not any(sequence.is_owed for sequence in group)), None)

    def _is_late(self, group: Group, step: int) -> bool:
        return group.since + self._patience_steps < step

    @staticmethod
    def _mark_company(groups: Collection[Group]) -> None:
        holding = _holding(groups)
        for group in holding:
            if group.place == "loading":
                group.is_load_alone = len(holding) == 1


def _holding(groups: Collection[Group]) -> list[Group]:
    return [group for group in groups if group.place != "wanted" and not group.blend.is_base]
