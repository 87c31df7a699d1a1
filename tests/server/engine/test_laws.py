"""What holds whatever arrives, leaves, fails or comes late. The fakes check every step: KV budget, each row under its
own blend, no row twice, nothing without KV."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters_store.blend import BASE, Blend, BlendKey
from adapters_store.errors import AdapterUnavailable, BlendRejected
from server.core.errors import SwitchFailed
from server.core.requests import RequestedMode, RequestId
from server.core.steps import LoadReport, Reused
from server.engine.cost import CostModel
from server.engine.messages import FinishEvent
from server.engine.policy import Schedule
from tests.server.engine.desk import Desk
from tests.server.engine.fakes import make_blend

BLENDS = (BASE, *(make_blend(name) for name in "abcde"))
FREE = CostModel(correction_s=0.0, patch_s=0.0)
DEAR = CostModel(correction_s=1e-6)
USUAL = CostModel()

blends = st.sampled_from(BLENDS)
costs = st.sampled_from([FREE, DEAR, USUAL])
schedules = st.sampled_from(["auto", "fused", "mixed"])
modes = st.sampled_from(["auto", "auto", "fused"])


class EngineStory(RuleBasedStateMachine):
    """Every request has exactly one end, and the tokens it should have, none lost, none twice."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(
            max_batch=3,
            max_step_tokens=8,
            max_kv_tokens=60,
            max_queue=12,
            patience_steps=6,
            turn_steps=3,
            quantum_steps=3,
            headroom_tokens=2,
            is_instant=False,
        )
        self.desk.residency.room = 3
        self.desk.execution.unmixable = {BLENDS[-1].key}
        self.wanted: dict[RequestId, int] = {}

    @rule(
        blend=blends,
        num_prompt_tokens=st.integers(1, 30),
        max_new_tokens=st.integers(1, 25),
        client=st.sampled_from("xyz"),
        mode=modes,
        lifetime_s=st.none() | st.floats(0.02, 1.0),
    )
    def ask(
        self,
        *,
        blend: Blend,
        num_prompt_tokens: int,
        max_new_tokens: int,
        client: str,
        mode: RequestedMode,
        lifetime_s: float | None,
    ) -> None:
        request = self.desk.ask(
            blend,
            num_prompt_tokens=num_prompt_tokens,
            max_new_tokens=max_new_tokens,
            client=client,
            mode=mode,
            deadline_s=None if lifetime_s is None else self.desk.clock.now() + lifetime_s,
        )
        self.wanted[request] = max_new_tokens

    @rule(num=st.integers(1, 20))
    def run(self, num: int) -> None:
        self.desk.turns(num)

    @precondition(lambda self: self.desk.scheduler.sequences)
    @rule(data=st.data(), is_late=st.booleans())
    def abort(self, data: st.DataObject, is_late: bool) -> None:
        request = data.draw(st.sampled_from([sequence.id for sequence in self.desk.scheduler.sequences]))
        if is_late:
            self.desk.late_aborts.append(request)
        else:
            self.desk.abort(request)

    @precondition(lambda self: self.desk.residency.waiting)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def load(self, data: st.DataObject, fails: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.desk.residency.waiting)))
        error = AdapterUnavailable("v", reason="gone") if fails else None
        self.desk.residency.waiting.pop(key)(LoadReport(error=error))

    @rule(error=st.sampled_from([SwitchFailed("no"), BlendRejected("no"), None]))
    def fail_next_switch(self, error: Exception | None) -> None:
        self.desk.execution.failures = [error]

    @rule()
    def fail_next_step(self) -> None:
        self.desk.runner.failures = [RuntimeError("out of memory")]

    @rule(failing=st.sets(blends, max_size=2))
    def fail_beside(self, failing: set[Blend]) -> None:
        self.desk.execution.beside_failures = {blend.key: BlendRejected("no") for blend in failing}

    @rule(num_tokens=st.integers(0, 10))
    def reuse(self, num_tokens: int) -> None:
        self.desk.runner.reused = Reused(num_tokens=num_tokens)

    @rule()
    def drain(self) -> None:
        self.desk.scheduler.is_draining = True

    @invariant()
    def limits_are_kept(self) -> None:
        with_kv = [row for row in self.desk.runner.live.values() if row.num_cached is not None]
        assert len(with_kv) <= self.desk.limits.max_batch
        for _, work in self.desk.runner.steps:
            assert sum(item.num_tokens for item in work) <= self.desk.limits.step_tokens
        self.desk.runner.steps.clear()

    @invariant()
    def what_was_sent_is_what_was_sampled(self) -> None:
        for request, client in self.desk.clients.items():
            words = client.text.split()
            assert words == [str(number) for number in range(len(words))]
            ended = client.over.is_set()
            assert ended or len(words) == self.desk.runner.sampled.get(request, 0)
            if ended and isinstance(client.events[-1], FinishEvent):
                assert len(words) == self.wanted[request] == client.end.usage.completion_tokens

    @invariant()
    def live_requests_are_those_without_an_end(self) -> None:
        live = {request for request, client in self.desk.clients.items() if not client.over.is_set()}
        assert {sequence.id for sequence in self.desk.scheduler.sequences} == live
        assert set(self.desk.runner.live) <= live

    def teardown(self) -> None:
        desk = self.desk
        desk.execution.failures, desk.runner.failures = [], []
        desk.late_aborts.clear()
        for _ in range(3000):
            if not desk.scheduler.sequences:
                break
            desk.turn()
            for key in list(desk.residency.waiting):
                desk.residency.waiting.pop(key)(LoadReport())
        assert desk.scheduler.sequences == []
        assert desk.scheduler.groups == []
        assert desk.scheduler.seats.running == []
        assert desk.runner.live == {}
        assert desk.residency.held == []


TestEngineStory = EngineStory.TestCase
TestEngineStory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 30),  # steps since the one before
            st.sampled_from(BLENDS),
            st.integers(1, 40),  # prompt tokens
            st.integers(1, 60),  # new tokens
            modes,
            st.sampled_from([0.5, 1.0, 8.0]),  # weight
            st.integers(0, 12),  # steps that loading takes
        ),
        min_size=2,
        max_size=25,
    ),
    costs=costs,
    schedule=schedules,
    max_batch=st.integers(1, 4),
    max_kv_tokens=st.sampled_from([100, 150, 1000]),
    patience_steps=st.integers(0, 12),
    turn_steps=st.integers(1, 6),
    quantum_steps=st.integers(1, 5),
)
def test_no_request_waits_longer_for_a_token_than_the_stated_bound(
    *,
    arrivals: list[tuple[int, Blend, int, int, RequestedMode, float, int]],
    costs: CostModel,
    schedule: Schedule,
    max_batch: int,
    max_kv_tokens: int,
    patience_steps: int,
    turn_steps: int,
    quantum_steps: int,
) -> None:
    """Each is of a client of its own, so that it is the first of it. Counted from when its bytes are there."""
    desk = Desk(
        costs=costs,
        is_instant=False,
        schedule=schedule,
        max_batch=max_batch,
        max_step_tokens=max_batch + 64,
        max_kv_tokens=max_kv_tokens,
        patience_steps=patience_steps,
        turn_steps=turn_steps,
        quantum_steps=quantum_steps,
        headroom_tokens=4,
    )
    desk.execution.unmixable = {BLENDS[-1].key, BLENDS[-2].key}
    due = [0]
    for arrival in arrivals:
        due.append(due[-1] + arrival[0])
    since: dict[RequestId, int] = {}
    load_steps = {arrival[1].key: arrival[-1] for arrival in arrivals}
    loading: dict[BlendKey, int] = {}
    before: dict[RequestId, int] = {}
    num_steps, turn, num_asked, num_live = 0, 0, 0, 1
    while num_asked < len(arrivals) or desk.scheduler.sequences:
        while num_asked < len(arrivals) and due[num_asked] <= turn:
            _, blend, num_prompt, num_new, mode, weight, _ = arrivals[num_asked]
            num_asked += 1
            desk.ask(
                blend,
                num_prompt_tokens=num_prompt,
                max_new_tokens=num_new,
                mode=mode,
                client=f"client {num_asked}",
                weight=weight,
            )
        num_live = max(num_live, len(desk.scheduler.sequences))
        bound = desk.limits.longest_wait_steps(num_live=num_live, max_sequence_tokens=desk.runner.max_sequence_tokens)
        num_steps += desk.turn()
        turn += 1
        for key in list(desk.residency.waiting):
            loading.setdefault(key, turn + load_steps[key])
            if loading[key] <= turn:
                del loading[key]
                desk.residency.waiting.pop(key)(LoadReport())
        for group in desk.scheduler.groups:
            for sequence in group:
                num_tokens = desk.num_tokens(sequence.id)
                if not group.is_ready or sequence.id not in since or num_tokens != before[sequence.id]:
                    since[sequence.id], before[sequence.id] = num_steps, num_tokens
                assert num_steps - since[sequence.id] <= bound
        assert turn < 20_000


def test_the_bound_is_stated_for_the_limits_as_they_are() -> None:
    limits = Desk(max_batch=32, patience_steps=100, turn_steps=10, quantum_steps=5, max_step_tokens=256).limits
    assert limits.longest_wait_steps(num_live=1, max_sequence_tokens=448) == 100 + 1 + 10 + 5 + 2
    assert limits.longest_wait_steps(num_live=40, max_sequence_tokens=448) == 101 + 40 * 17
