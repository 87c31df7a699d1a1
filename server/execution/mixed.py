"""Mixed mode: one blend in the weights, rows of others beside it, each with its own result.

A row of another blend takes the plain product over the weights as they are, and the difference that its own words
would make, summed in float32 (``adapters_store.kernels``: the row correction). The words are those of the exchange, so
the two modes differ by the order of a sum alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from adapters_store.blend import Blend, BlendKey
from adapters_store.errors import AdapterStoreError, BudgetExceeded
from adapters_store.kernels import RowTargets
from server.core.errors import ServerError, SwitchFailed
from server.core.memory_shortage import told_of_memory
from server.core.steps import Survey, SwitchReport, VerifyReport
from server.execution.fused import FusedExecution
from server.execution.staging import Staged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Claim:
    """A blend that is to run beside: staged (None: the base), and what holds it so."""

    key: BlendKey
    staged: Staged | None
    holds: ExitStack


class MixedExecution:
    """Satisfies ``engine.ports.Execution``. Owns what is beside the weights, as FusedExecution owns what is in them.
    Engine thread only."""

    def __init__(self, fused: FusedExecution) -> None:
        self._fused = fused
        self._beside: dict[BlendKey, RowTargets] = {}
        self._holds = ExitStack()  # of what is beside

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fused.fingerprint

    @property
    def active(self) -> Blend:
        return self._fused.active

    @property
    def broken(self) -> str | None:
        return self._fused.broken

    def targets(self, key: BlendKey) -> RowTargets | None:
        """What rows of this blend run with now: None for the blend in the weights.

        Raises KeyError for a blend that is neither in the weights nor beside: no row runs under another's."""
        return None if key == self.active.key else self._beside[key]

    def survey(self, blend: Blend) -> Survey:
        return Survey(num_entries=0, is_mixable=True) if blend.is_base else self._fused.blends.survey(blend)

    def activate(self, blend: Blend, beside: Collection[Blend] = ()) -> SwitchReport:
        """As the port says. A blend that is not staged yet is staged over the base, which is brought in for it."""
        wanted = {other.key: other for other in beside if other.key != blend.key}
        if self.broken is None and blend.key == self.active.key and wanted.keys() == self._beside.keys():
            return SwitchReport(kind="none")
        self._clear()
        started = perf_counter()
        failed: dict[BlendKey, Exception] = {}
        with ExitStack() as holds:
            if wanted:
                self._hold(blend, holds)
            claims = self._stage(wanted.values(), holds, failed)
            report = self._fused.activate(blend)
            targets = self._take_targets(claims, failed)
            self._beside, self._holds = targets, holds.pop_all()
        return replace(report, failed=failed, total_s=perf_counter() - started)

    def restore(self) -> SwitchReport:
        self._clear()
        return self._fused.restore()

    def forget(self, version: Version) -> None:
        self._clear()
        self._fused.forget(version)

    def verify(self) -> Iterator[VerifyReport | None]:
        return self._fused.verify()

    def describe(self) -> dict[str, Any]:
        return {"mode": "mixed" if self._beside else "fused", **self._fused.describe(), "beside": list(self._beside)}

    def _stage(self, blends: Iterable[Blend], holds: ExitStack, failed: dict[BlendKey, Exception]) -> list[_Claim]:
        """All blends held that can be and that there is room for, in order."""
        claims = []
        for blend in blends:
            own = holds.enter_context(ExitStack())
            try:
                claims.append(_Claim(key=blend.key, staged=self._hold(blend, own), holds=own))
            except Exception as error:
                failed[blend.key] = self._reason(blend.key, error)
        return claims

    def _take_targets(self, claims: list[_Claim], failed: dict[BlendKey, Exception]) -> dict[BlendKey, RowTargets]:
        """Targets over what is in the weights now; where there is no room for all, the last claim gives way."""
        targets: dict[BlendKey, RowTargets] = {}
        while claims:
            claim, *others = claims
            try:
                targets[claim.key] = self._hold_targets(claim)
                claims = others
            except BudgetExceeded as error:
                last = claims.pop()
                last.holds.close()
                failed[last.key] = error
            except Exception as error:
                failed[claim.key] = self._reason(claim.key, error)
                claims = others
        return targets

    def _reason(self, key: BlendKey, error: Exception) -> Exception:
        """Why this blend alone cannot run beside; raises where it is more than that."""
        if self.broken:
            raise error
        error = told_of_memory(error)
        if isinstance(error, AdapterStoreError | ServerError):
            return error
        return SwitchFailed(f"blend {key} could not be made ready to run beside another: {error}")

    def _hold(self, blend: Blend, holds: ExitStack) -> Staged | None:
        """The staged blend; None for the base. What is not staged yet is staged over the base, which is in then."""
        if blend.is_base:
            return None
        staged = self._fused.blends.hold(blend)
        if staged is None:
            staged = self._fused.stage_and_hold(blend)
        holds.callback(self._fused.blends.let_go, staged)
        return staged

    def _hold_targets(self, claim: _Claim) -> RowTargets:
        held = self._fused.blends.hold_targets(claim.staged, self._fused.staged)
        claim.holds.callback(self._fused.blends.let_go_targets, held)
        return held.targets

    def _clear(self) -> None:
        self._beside = {}
        self._holds.close()
