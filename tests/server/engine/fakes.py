"""Stand-ins for the world outside the engine: no torch, no model, time that moves when told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event as Flag
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from adapters_store.blend import BASE, Blend, BlendKey, BlendMember
from server.core.requests import AppliedAdapter, GenerationRequest, Mode, RequestId, Sampling
from server.core.steps import NewSequence, StepToken, SwitchReport, VerifyReport
from server.engine.messages import Event, FailEvent, FinishEvent, Submit, TextEvent

FINGERPRINT = Fingerprint("sha256:" + "0" * 64)
_numbers = count()


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds


@dataclass
class FakeExecution:
    """``failures`` holds what the next calls of ``activate`` raise; None lets one pass."""

    mode: Mode = "fused"
    fingerprint: Fingerprint = FINGERPRINT
    active: Blend = BASE
    broken: str | None = None
    lies: bool = False  # says it switched, but did not
    failures: list[Exception | None] = field(default_factory=list)
    activated: list[BlendKey] = field(default_factory=list)
    forgotten: list[Version] = field(default_factory=list)
    num_slices: int = 3

    def activate(self, blend: Blend) -> SwitchReport:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            self.active = BASE
            raise failure
        if blend.key == self.active.key or self.lies:
            return SwitchReport(kind="none")
        self.active = blend
        self.activated.append(blend.key)
        return SwitchReport(kind="exchange", total_s=0.001)

    def restore(self) -> SwitchReport:
        self.active = BASE
        return SwitchReport(kind="restore")

    def forget(self, version: Version) -> None:
        self.forgotten.append(version)

    def verify(self) -> Iterator[VerifyReport | None]:
        for _ in range(self.num_slices):
            yield None
        yield VerifyReport(ok=True, digest="d", expected="d", num_bytes=1, mismatched=())

    def describe(self) -> dict[str, Any]:
        return {"active": self.active.key}


@dataclass
class FakeRunner:
    """Answers every sequence with the words of ``script``, then with its end-of-text token."""

    execution: FakeExecution
    script: Sequence[str] = ("a", "b", "c")
    max_live: int = 1000
    failures: list[Exception | None] = field(default_factory=list)
    held_text: str = ""
    live: dict[RequestId, tuple[BlendKey, int]] = field(default_factory=dict)
    steps: list[tuple[BlendKey, frozenset[RequestId]]] = field(default_factory=list)
    drops: list[frozenset[RequestId]] = field(default_factory=list)
    gate: Flag | None = None  # steps wait for it
    max_sequence_tokens: int = 200_000

    def can_admit(self, new: Sequence[NewSequence]) -> bool:
        return len(self.live) + len(new) <= self.max_live

    def prefill(self, blend_key: BlendKey, sequences: Sequence[NewSequence]) -> list[StepToken]:
        for new in sequences:
            self.live[new.id] = (blend_key, 0)
        return self._step(blend_key, [new.id for new in sequences])

    def decode(self, blend_key: BlendKey, ids: Sequence[RequestId]) -> list[StepToken]:
        return self._step(blend_key, ids)

    def finish_text(self, sequence_id: RequestId) -> str:
        return self.held_text

    def drop(self, ids: Sequence[RequestId]) -> None:
        self.drops.append(frozenset(ids))
        for request in ids:
            self.live.pop(request, None)

    def _step(self, blend_key: BlendKey, ids: Sequence[RequestId]) -> list[StepToken]:
        if self.gate is not None:
            assert self.gate.wait(timeout=10)
        assert self.execution.active.key == blend_key, "the runner ran under another blend"
        assert all(self.live[request][0] == blend_key for request in ids)
        self.steps.append((blend_key, frozenset(ids)))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return [self._token(request) for request in ids]

    def _token(self, request: RequestId) -> StepToken:
        blend_key, position = self.live[request]
        self.live[request] = (blend_key, position + 1)
        is_eos = position >= len(self.script)
        return StepToken(id=request, token=position, is_eos=is_eos, text="" if is_eos else self.script[position])


@dataclass
class FakeResidency:
    """Loads at once, or when ``finish`` is called."""

    is_instant: bool = True
    held: list[BlendKey] = field(default_factory=list)
    waiting: dict[BlendKey, Callable[[Exception | None], None]] = field(default_factory=dict)
    requested: Flag = field(default_factory=Flag)

    def request(self, blend: Blend, on_done: Callable[[Exception | None], None]) -> None:
        self.held.append(blend.key)
        if self.is_instant:
            on_done(None)
        else:
            self.waiting[blend.key] = on_done
        self.requested.set()

    def release(self, blend: Blend) -> None:
        self.held.remove(blend.key)


@dataclass
class Client:
    """The sink of one request."""

    events: list[Event] = field(default_factory=list)
    over: Flag = field(default_factory=Flag)

    def __call__(self, event: Event) -> None:
        assert not self.over.is_set(), "an event after the last one"
        self.events.append(event)
        if not isinstance(event, TextEvent):
            self.over.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))

    @property
    def end(self) -> FinishEvent:
        assert self.over.wait(timeout=10)
        last = self.events[-1]
        assert isinstance(last, FinishEvent), last
        return last

    @property
    def error(self) -> Exception:
        assert self.over.wait(timeout=10)
        last = self.events[-1]
        assert isinstance(last, FailEvent), last
        return last.error


def make_blend(*names: str, scale: float = 1.0) -> Blend:
    return Blend(members=tuple(BlendMember(version=Version(name), scale=scale) for name in names))


def make_request(
    blend: Blend = BASE,
    *,
    num_prompt_tokens: int = 2,
    max_new_tokens: int = 8,
    stop: tuple[str, ...] = (),
    ignore_eos: bool = False,
    arrived_s: float = 100.0,
    deadline_s: float | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        id=RequestId(f"r{next(_numbers)}"),
        tenant="default",
        client="anonymous",
        weight=1.0,
        prompt_tokens=(1,) * num_prompt_tokens,
        blend=blend,
        adapters=tuple(AppliedAdapter(name=v, version=v, scale=1.0) for v in blend.versions),
        sampling=Sampling(),
        max_new_tokens=max_new_tokens,
        stop=stop,
        ignore_eos=ignore_eos,
        mode="auto",
        arrived_s=arrived_s,
        deadline_s=deadline_s,
    )


def submit(request: GenerationRequest) -> tuple[Submit, Client]:
    client = Client()
    return Submit(requests=(request,), sinks=(client,)), client
