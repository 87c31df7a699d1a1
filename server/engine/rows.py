"""What could run of one blend in the next step: the nouns of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapters_store.blend import BlendKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What could run of one blend: ``num_decode`` rows of one token, ``num_prefill`` prompt tokens.

    ``last_ran`` is the step in which rows of the blend last ran, for exclusive ones that in which it was last in the
    weights; or in which it became ready. ``served``: what was given so far, by weight,
    to the client that was given least of those whose rows these are (``fairness``)."""

    key: BlendKey
    num_entries: int  # 0: the base
    last_ran: int
    num_decode: int = 0
    num_prefill: int = 0
    served: float = 0.0
    is_exclusive: bool = False
    is_mixable: bool = True  # while False nothing can run beside the blend either

    @property
    def num_tokens(self) -> int:
        return self.num_decode + self.num_prefill
