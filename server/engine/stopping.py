"""Stop strings over text that arrives in pieces."""

from __future__ import annotations


class StopGate:
    """Lets text through up to the stop string that is complete first; holds back a tail that may yet become one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._tail = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Text that is final now. After a stop string was found: empty."""
        if self.is_stopped:
            return ""
        text = self._tail + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._tail = ""
            return text[: min(found)[1]]
        held = self._num_held(text)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """The tail, which became no stop string."""
        tail, self._tail = self._tail, ""
        return tail

    def _num_held(self, text: str) -> int:
        """Length of the longest tail of ``text`` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
