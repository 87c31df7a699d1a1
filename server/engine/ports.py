"""What the engine needs of the world, as Protocols that runners, execution and the store satisfy.

The engine imports none of them; fakes with a few lines each make it testable without torch.
All methods are called on the engine thread unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from server.core.requests import RequestId
from server.core.steps import LoadReport, New, Reused, StepResult, Survey, SwitchReport, VerifyReport, Work

if TYPE_CHECKING:
    from adapters_store.adapter import Fingerprint, Version
    from adapters_store.blend import Blend


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, monotonic. May be called on any thread."""
        ...


class Execution(Protocol):
    """Says what "this blend is active" means: one blend in the weights, others beside it."""

    @property
    def fingerprint(self) -> Fingerprint: ...

    @property
    def active(self) -> Blend:
        """What is in the weights."""
        ...

    def survey(self, blend: Blend) -> Survey:
        """What this blend asks of a step. Its bytes must be resident. Raises AdapterStoreError."""
        ...

    def activate(self, blend: Blend, beside: Collection[Blend] = ()) -> SwitchReport:
        """After it returns the weights hold ``blend``, and the runner can run rows of the blends in ``beside`` (mixable
        ones, the base among them) in the same step, but for those that the report lists as failed. All must be
        resident, but for the one that is in the weights already.

        Raises SwitchFailed (the base is restored, the next call works) or an AdapterStoreError (``blend`` cannot be
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

    def request(self, blend: Blend, on_done: Callable[[LoadReport], None]) -> None:
        """Start loading a blend that is not the base. Never blocks. ``on_done`` is called once, on any thread, when
        every byte is on the host or cannot be brought there."""
        ...

    def release(self, blend: Blend) -> None:
        """Ends one ``request``'s hold on the bytes; a load still under way is let go when it ends. Never blocks."""
        ...


class Runner(Protocol):
    """Executes steps of the model over whatever is in the weights and beside it. Owns the KV memory of its
    sequences, or the latents of its images: a step of an image counts as a token (``core.requests``)."""

    @property
    def max_sequence_tokens(self) -> int:
        """Most tokens, prompt and new ones together, of a sequence that runs with nothing else live."""
        ...

    def fits(self, lengths: Sequence[int]) -> bool:
        """True if the KV memory can hold sequences of these lengths (tokens), and nothing else, at once."""
        ...

    def begin(self, new: New) -> Reused:
        """Takes a sequence in, or takes it up again after ``pause``; says how much of it has KV already."""
        ...

    def step(self, work: Sequence[Work]) -> Sequence[StepResult]:
        """One forward over all of it; each row under its own blend, which is in the weights or beside. One token for
        each sequence that has KV for all its tokens afterwards, or one denoising step of each image, in any order; or
        what keeps a sequence from going on."""
        ...

    def pause(self, ids: Collection[RequestId]) -> None:
        """Frees the KV of these sequences and keeps everything else: they go on after ``begin``."""
        ...

    def finish_text(self, sequence_id: RequestId) -> str:
        """Text still held back by the incremental decoder at the end of a sequence; empty for an image."""
        ...

    def drop(self, ids: Collection[RequestId]) -> None:
        """Forgets these sequences and frees their KV. Unknown ids are ignored."""
        ...

    def describe(self) -> dict[str, Any]:
        """The KV memory, as plain JSON values."""
        ...
