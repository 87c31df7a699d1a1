"""What the engine needs of the world, as Protocols that runners, execution and the store satisfy.

The engine imports none of them; fakes with a few lines each make it testable without torch.
All methods are called on the engine thread unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from server.core.requests import Mode, RequestId
from server.core.steps import NewSequence, StepToken, SwitchReport, VerifyReport

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint, Version
    from adapters_store.blend import Blend, BlendKey


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, monotonic. May be called on any thread."""
        ...


class Execution(Protocol):
    """Makes blends active in the weights. One implementation per mode."""

    mode: Mode

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def active(self) -> Blend: ...

    def activate(self, blend: Blend) -> SwitchReport:
        """After it returns the weights hold ``blend``; its bytes must be resident.

        Raises SwitchFailed (the base is restored, the next call works) or an AdapterStoreError (this blend cannot be
        made; the old blend or the base is in)."""
        ...

    def restore(self) -> SwitchReport:
        """As ``activate`` of the base."""
        ...

    @property
    def broken(self) -> str | None:
        """Why the weights can no longer be vouched for: nothing may run any more. None while they can."""
        ...

    def forget(self, version: Version) -> None:
        """Restore the base if ``version`` is active; drop every staged form that contains it."""
        ...

    def verify(self) -> Iterator[VerifyReport | None]:
        """Yields None after each bounded slice of hashing, at last the report. Switches may happen in between."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is fused and staged, as plain JSON values."""
        ...


class Residency(Protocol):
    """Brings adapter bytes to the host, off the engine thread."""

    def request(self, blend: Blend, on_done: Callable[[Exception | None], None]) -> None:
        """Start loading a blend that is not the base. Never blocks. ``on_done`` is called once, on any thread, with
        None when every byte is on the host, else with the reason why not."""
        ...

    def release(self, blend: Blend) -> None:
        """Ends one ``request``'s hold on the bytes; a load still under way is let go when it ends. Never blocks."""
        ...


class Runner(Protocol):
    """Executes steps of the model over whatever is in the weights. Owns the KV memory of its sequences.

    Sequences prefilled under one ``blend_key`` are stepped only under it."""

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens, prompt and new ones together, of a sequence that runs with nothing else live."""
        ...

    def can_admit(self, new: Sequence[NewSequence]) -> bool:
        """True if the KV memory takes all of these beside what is live."""
        ...

    def prefill(self, blend_key: BlendKey, sequences: Sequence[NewSequence]) -> list[StepToken]:
        """Runs the prompts, keeps their KV, samples each first token."""
        ...

    def decode(self, blend_key: BlendKey, ids: Sequence[RequestId]) -> list[StepToken]:
        """One token for each of the named sequences, which are in the blend's group."""
        ...

    def finish_text(self, sequence_id: RequestId) -> str:
        """Text still held back by the incremental decoder at the end of a sequence."""
        ...

    def drop(self, ids: Sequence[RequestId]) -> None:
        """Frees the KV of these sequences. Unknown ids are ignored."""
        ...
