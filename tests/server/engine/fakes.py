"""Stand-ins for the world outside the engine: no torch, no model, time that moves when told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Event as Flag
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from adapters_store.blend import BASE, Blend, BlendKey, BlendMember
from adapters_store.errors import BudgetExceeded
from server.core.requests import (
    AppliedAdapter,
    GenerationRequest,
    RequestedMode,
    RequestId,
    Sampling,
    TextRequest,
)
from server.core.steps import (
    LoadReport,
    New,
    NewSequence,
    Reused,
    StepToken,
    Survey,
    SwitchReport,
    VerifyReport,
    Work,
)
from server.core.tracing import Phase
from server.engine.messages import Event, FailEvent, FinishEvent, ProgressEvent, Submit, TextEvent

FINGERPRINT = Fingerprint("sha256:" + "0" * 64)
_numbers = count()


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds


@dataclass
class FakeExecution:
    """``failures`` holds what the next calls of ``activate`` raise; None lets one pass. ``beside_failures``: blends
    that cannot run beside others, and why."""

    fingerprint: Fingerprint = FINGERPRINT
    active: Blend = BASE
    beside: frozenset[BlendKey] = frozenset()
    broken: str | None = None
    lies: bool = False  # says it switched, but did not
    failures: list[Exception | None] = field(default_factory=list)
    beside_failures: dict[BlendKey, Exception] = field(default_factory=dict)
    activated: list[BlendKey] = field(default_factory=list)
    forgotten: list[Version] = field(default_factory=list)
    unmixable: set[BlendKey] = field(default_factory=set)
    num_entries: int = 1_000_000
    num_slices: int = 3

    def survey(self, blend: Blend) -> Survey:
        return Survey(num_entries=self.num_entries, is_mixable=blend.key not in self.unmixable)

    def activate(self, blend: Blend, beside: Collection[Blend] = ()) -> SwitchReport:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            self.active = BASE
            raise failure
        keys = {other.key for other in beside}
        assert not keys & self.unmixable, "a blend that cannot be mixed was to run beside another"
        assert not keys or blend.key not in self.unmixable, "others were to run beside a blend that cannot be mixed"
        assert blend.key not in keys
        failed = {key: error for key, error in self.beside_failures.items() if key in keys}
        self.beside = frozenset(keys - set(failed))
        if blend.key == self.active.key or self.lies:
            return SwitchReport(kind="none", failed=failed)
        self.active = blend
        self.activated.append(blend.key)
        return SwitchReport(kind="exchange", total_s=0.001, failed=failed)

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
class Row:
    """What the runner keeps of a sequence; ``num_cached`` None while it is paused."""

    new: NewSequence
    num_tokens: int = 0
    num_cached: int | None = None

    @property
    def num_known(self) -> int:
        return len(self.new.prompt_tokens) + self.num_tokens


@dataclass
class FakeRunner:
    """Answers every sequence with the words of ``script``, then with its end-of-text token. Holds KV of at most
    ``max_kv_tokens`` tokens, and finds ``num_reused`` of a prompt there."""

    execution: FakeExecution
    script: Sequence[str] = ("a", "b", "c")
    max_kv_tokens: int = 1_000_000
    max_sequence_tokens: int = 200_000
    reused: Reused = field(default_factory=Reused)
    failures: list[Exception | None] = field(default_factory=list)
    held_text: str = ""
    unbeginnable: set[RequestId] = field(default_factory=set)
    seen: set[RequestId] = field(default_factory=set)
    sampled: dict[RequestId, int] = field(default_factory=dict)  # tokens, of all there ever were
    live: dict[RequestId, Row] = field(default_factory=dict)
    steps: list[tuple[BlendKey, list[Work]]] = field(default_factory=list)
    drops: list[frozenset[RequestId]] = field(default_factory=list)
    gate: Flag | None = None  # steps wait for it
    on_step: Callable[[], None] = lambda: None

    def fits(self, lengths: Sequence[int]) -> bool:
        return sum(lengths) <= self.max_kv_tokens

    def begin(self, new: New) -> Reused:
        assert isinstance(new, NewSequence)
        self.seen.add(new.id)
        self.sampled.setdefault(new.id, 0)
        if new.id in self.unbeginnable:
            raise RuntimeError("no such tenant")
        row = self.live.setdefault(new.id, Row(new=new))
        assert row.num_cached is None, "begun twice"
        reused = self.reused if self.reused.num_tokens < row.num_known else Reused()
        assert not (new.must_be_fused and reused.mode == "mixed")
        row.num_cached = reused.num_tokens
        return reused

    def step(self, work: Sequence[Work]) -> list[StepToken]:
        if self.gate is not None:
            assert self.gate.wait(timeout=10)
        self.steps.append((self.execution.active.key, list(work)))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        assert len({item.id for item in work}) == len(work) > 0
        tokens = [token for item in work if (token := self._run(item)) is not None]
        held = sum(row.num_cached or 0 for row in self.live.values())
        assert held <= self.max_kv_tokens or len(self._with_kv()) == 1, "past the KV budget"
        self.on_step()
        return tokens

    def pause(self, ids: Collection[RequestId]) -> None:
        for request in ids:
            assert self.live[request].num_cached is not None, "paused twice"
            self.live[request].num_cached = None

    def finish_text(self, sequence_id: RequestId) -> str:
        return self.held_text

    def drop(self, ids: Collection[RequestId]) -> None:
        self.drops.append(frozenset(ids))
        for request in ids:
            self.live.pop(request, None)

    def describe(self) -> dict[str, Any]:
        return {"num_sequences": len(self.live)}

    def _run(self, item: Work) -> StepToken | None:
        row = self.live[item.id]
        key = row.new.blend.key
        is_active = key == self.execution.active.key
        assert is_active or (key in self.execution.beside and not row.new.must_be_fused), "ran under another blend"
        assert row.num_cached is not None, "ran without KV"
        assert 1 <= item.num_tokens <= row.num_known - row.num_cached
        row.num_cached += item.num_tokens
        if row.num_cached < row.num_known:
            return None
        position = row.num_tokens
        row.num_tokens += 1
        self.sampled[item.id] += 1
        is_eos = position >= len(self.script)
        return StepToken(id=item.id, token=position, is_eos=is_eos, text="" if is_eos else self.script[position])

    def _with_kv(self) -> list[Row]:
        return [row for row in self.live.values() if row.num_cached is not None]


@dataclass
class FakeResidency:
    """Loads at once, or when what is in ``waiting`` is called. Holds ``room`` blends at a time."""

    is_instant: bool = True
    room: int = 1000
    held: list[BlendKey] = field(default_factory=list)
    waiting: dict[BlendKey, Callable[[LoadReport], None]] = field(default_factory=dict)
    requested: Flag = field(default_factory=Flag)
    took: Phase | None = None

    def request(self, blend: Blend, on_done: Callable[[LoadReport], None]) -> None:
        self.held.append(blend.key)
        if len(self.held) > self.room:
            full = BudgetExceeded("host tier", needed_bytes=1, budget_bytes=self.room, held_bytes=len(self.held) - 1)
            on_done(LoadReport(error=full, took=self.took))
        elif self.is_instant:
            on_done(LoadReport(took=self.took))
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
        if not isinstance(event, TextEvent | ProgressEvent):
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
    client: str = "anonymous",
    tenant: str = "default",
    weight: float = 1.0,
    mode: RequestedMode = "auto",
) -> TextRequest:
    return TextRequest(
        id=RequestId(f"r{next(_numbers)}"),
        tenant=tenant,
        client=client,
        weight=weight,
        prompt_tokens=(1,) * num_prompt_tokens,
        blend=blend,
        adapters=tuple(AppliedAdapter(name=v, version=v, scale=1.0) for v in blend.versions),
        sampling=Sampling(),
        max_new_tokens=max_new_tokens,
        stop=stop,
        ignore_eos=ignore_eos,
        mode=mode,
        arrived_s=arrived_s,
        deadline_s=deadline_s,
    )


def submit(request: GenerationRequest) -> tuple[Submit, Client]:
    client = Client()
    return Submit(requests=(request,), sinks=(client,)), client
