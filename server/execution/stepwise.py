"""Composition over denoising steps: the parts of a blend take turns in the weights while one request runs.

All parts are staged when the blend becomes active, so that a turn between two denoising steps is one exchange.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

from adapters_store.adapter import Fingerprint, Version
from adapters_store.blend import Blend, BlendKey
from adapters_store.errors import BlendRejected, BudgetExceeded
from server.core.steps import Survey, SwitchReport, VerifyReport
from server.execution.fused import FusedExecution
from server.execution.staging import Staged


class StepwiseExecution:
    """Satisfies ``engine.ports.Execution``. Owns whose turn it can be, as FusedExecution owns what is in the weights.
    Engine thread only."""

    def __init__(self, fused: FusedExecution, *, prefix: str = "") -> None:
        """``prefix`` of the names of weights that run in every step: those of the denoiser."""
        self._fused = fused
        self._prefix = prefix
        self._stepwise: Blend | None = None  # the active blend if it has several parts, one of which is in the weights
        self._held: dict[BlendKey, Staged] = {}  # of its parts, in the order they were held

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fused.fingerprint

    @property
    def active(self) -> Blend:
        """A stepwise blend is active while one of its parts is in the weights."""
        return self._stepwise or self._fused.active

    @property
    def broken(self) -> str | None:
        return self._fused.broken

    def survey(self, blend: Blend) -> Survey:
        """Of the largest part. Nothing runs beside anything. Raises BlendRejected for turns of an adapter that changes
        more than the denoiser: the prompt is read once, under one part, and would be read wrong for the others."""
        if blend.is_stepwise:
            self._check_turns(blend)
        surveys = [self._fused.blends.survey(part) for part in blend.parts]
        return Survey(num_entries=max(survey.num_entries for survey in surveys), is_mixable=False)

    def activate(self, blend: Blend, beside: Collection[Blend] = ()) -> SwitchReport:
        """As the port says. Of a stepwise blend every part is staged, so that one that cannot be is told now; as many
        are held as there is room for; one is in the weights, that which is in already if it is one of them."""
        if beside:
            raise AssertionError("a survey promised that nothing runs beside another blend here")
        if self.broken is None and blend.key == self.active.key:
            return SwitchReport(kind="none")
        self._leave()
        if self.broken or not blend.is_stepwise:
            return self._fused.activate(blend.parts[0])
        started = perf_counter()
        try:
            stage_s = sum([self._hold(part) for part in blend.parts])
            is_in = self._fused.active.key in {part.key for part in blend.parts}
            report = self._bring_in(self._fused.active if is_in else blend.parts[0], stage_s, started)
        except BaseException:
            self._leave()
            raise
        self._stepwise = blend
        return report

    def enter(self, part: Blend) -> SwitchReport:
        """The turn of ``part``, one of the active blend's (``Blend.parts``), which is in the weights afterwards. For
        the runner, between two denoising steps. May block on the store if the part had to give way for another.

        Raises as ``activate``; then nothing but the base is active."""
        if part.key not in {own.key for own in self.active.parts}:
            raise AssertionError(f"{part.key} is no part of the active blend {self.active.key}")
        if not self._stepwise:
            return self._fused.activate(part)
        started = perf_counter()
        try:
            return self._bring_in(part, 0.0, started)
        except BaseException:
            self._leave()
            raise

    def restore(self) -> SwitchReport:
        self._leave()
        return self._fused.restore()

    def forget(self, version: Version) -> None:
        if version in self.active.versions:
            self.restore()
        self._fused.forget(version)

    def verify(self) -> Iterator[VerifyReport | None]:
        return self._fused.verify()

    def describe(self) -> dict[str, Any]:
        """``active`` is what is in the weights; ``in_turn`` the stepwise blend that it is a part of."""
        return {"mode": "fused", **self._fused.describe(), "in_turn": self._describe_turns()}

    def _check_turns(self, blend: Blend) -> None:
        for name in self._fused.blends.names(blend):
            if not name.startswith(self._prefix):
                raise BlendRejected(
                    f"fusion.method {blend.fusion.method}: expected adapters of weights {self._prefix}… alone, of each "
                    f"step, got one that changes {name}"
                )

    def _bring_in(self, part: Blend, stage_s: float, started: float) -> SwitchReport:
        stage_s += self._hold(part)
        report = self._fused.activate(part)
        return replace(report, tier="host" if stage_s else "device", stage_s=stage_s, total_s=perf_counter() - started)

    def _hold(self, part: Blend) -> float:
        """Holds a part, for which those held last give way where the device has no room; those held first stay, which
        is best for turns in a cycle. Returns how long staging took (s), 0 if it was staged; if not, the base is in."""
        if part.key in self._held:
            return 0.0
        staged = self._fused.blends.hold(part)
        started = perf_counter()
        stage_s = 0.0
        while staged is None:
            try:
                staged = self._fused.stage_and_hold(part)
                stage_s = perf_counter() - started
            except BudgetExceeded:
                if not self._held:
                    raise
                _, last = self._held.popitem()
                self._fused.blends.let_go(last)
        self._held[part.key] = staged
        return stage_s

    def _leave(self) -> None:
        """No blend takes turns any more. What is in the weights stays."""
        self._stepwise = None
        while self._held:
            _, staged = self._held.popitem()
            self._fused.blends.let_go(staged)

    def _describe_turns(self) -> dict[str, Any] | None:
        blend = self._stepwise
        if blend is None:
            return None
        return {
            "blend_key": blend.key,
            "fusion": blend.fusion.method,
            "every": blend.fusion.every,
            "parts": [part.key for part in blend.parts],
            "held": list(self._held),
        }
