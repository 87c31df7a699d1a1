from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters_store.blend import BlendKey
from server.engine.policy import Candidate, Quantum, choose

A, B, C = (BlendKey(name) for name in "abc")


def candidate(key: BlendKey, since: int = 0) -> Candidate:
    return Candidate(key=key, waiting_since=since)


def test_nothing_to_run_chooses_nothing() -> None:
    assert choose([], Quantum(key=A, num_steps=1), quantum_steps=4) is None


def test_the_current_blend_stays_until_its_quantum_is_used_up() -> None:
    both = [candidate(A, 9), candidate(B, 1)]
    assert choose(both, Quantum(key=A, num_steps=3), quantum_steps=4) == A
    assert choose(both, Quantum(key=A, num_steps=4), quantum_steps=4) == B


def test_the_current_blend_stays_for_as_long_as_nobody_else_waits() -> None:
    assert choose([candidate(A)], Quantum(key=A, num_steps=1000), quantum_steps=4) == A


def test_the_longest_waiting_blend_is_next() -> None:
    waiting = [candidate(A, 7), candidate(B, 5), candidate(C, 3)]
    assert choose(waiting, Quantum(key=A, num_steps=4), quantum_steps=4) == C


@given(num=st.integers(2, 6), quantum=st.integers(1, 5), arrivals=st.lists(st.integers(0, 5), max_size=120))
def test_no_blend_waits_longer_than_a_quantum_of_each_other_one(num: int, quantum: int, arrivals: list[int]) -> None:
    """Blends come and go as they like; one that stays is served within (n - 1) * quantum steps."""
    keys = [BlendKey(str(i)) for i in range(num)]
    since = dict.fromkeys(keys, 0)
    present = set(keys)
    current: Quantum | None = None
    last_run = dict.fromkeys(keys, 0)
    for step in range(1, 120):
        if step - 1 < len(arrivals):
            toggled = keys[arrivals[step - 1] % num]
            if toggled in present:
                present.discard(toggled)
            else:
                present.add(toggled)
                since[toggled] = last_run[toggled] = step - 1
        key = choose([candidate(k, since[k]) for k in sorted(present)], current, quantum_steps=quantum)
        if key is None:
            continue
        assert key in present
        before = current.num_steps if current is not None and current.key == key else 0
        current = Quantum(key=key, num_steps=before + 1)
        since[key] = last_run[key] = step
        for other in present:
            assert step - last_run[other] <= (num - 1) * quantum
