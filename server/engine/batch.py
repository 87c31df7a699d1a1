"""How the tokens of one step are shared out among the sequences that may run in it."""

from __future__ import annotations

from collections.abc import Iterable

from server.engine.fairness import Ledger
from server.engine.group import Group
from server.engine.rows import Rows
from server.engine.sequence import Sequence

Share = tuple[Sequence, int]


def rows_of(group: Group, max_tokens: int, ledger: Ledger) -> list[Rows]:
    """What could run of a blend, in one part or two."""
    exclusive = [sequence for sequence in group.running if is_exclusive(group, sequence)]
    others = [sequence for sequence in group.running if not is_exclusive(group, sequence)]
    return [_rows(group, part, max_tokens, ledger) for part in (exclusive, others) if part]


def is_exclusive(group: Group, sequence: Sequence) -> bool:
    """It runs only while its blend is in the weights."""
    return sequence.must_be_fused or not group.survey.is_mixable


def share_out(sequences: Iterable[Sequence], first: Sequence | None, max_tokens: int) -> list[Share]:
    """One token for each that decodes; what is left for prompts in the order in which they started, ``first`` before
    the others, so that a long prompt holds up no row that decodes and at most those that came after it."""
    decoding: list[Share] = []
    prompts: list[Sequence] = []
    for sequence in sequences:
        if sequence.num_todo == 1:
            decoding.append((sequence, 1))
        else:
            prompts.append(sequence)
    shares = decoding
    left = max_tokens - len(decoding)
    for sequence in sorted(prompts, key=lambda prompt: prompt is not first):
        num_tokens = min(sequence.num_todo, left)
        if num_tokens:
            shares.append((sequence, num_tokens))
            left -= num_tokens
    return shares


def _rows(group: Group, part: list[Sequence], max_tokens: int, ledger: Ledger) -> Rows:
    todos = [sequence.num_todo for sequence in part]
    num_decode = todos.count(1)
    exclusive = is_exclusive(group, part[0])
    return Rows(
        key=group.blend.key,
        num_entries=group.survey.num_entries,
        last_ran=group.last_in if exclusive else group.last_ran,
        num_decode=num_decode,
        num_prefill=min(sum(todos) - num_decode, max_tokens - num_decode),
        served=min(ledger.rank(sequence)[0] for sequence in part),
        is_exclusive=exclusive,
        is_mixable=group.survey.is_mixable,
    )
