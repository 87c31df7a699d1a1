"""Fused mode: the active blend is in the weights, everything else is a plain forward.

Every change is transactional: an exception anywhere leaves the base (or, where nothing was written, the old blend).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from time import perf_counter
from typing import Any

import torch

from adapters_store.adapter import Fingerprint, Version
from adapters_store.blend import BASE, Blend
from adapters_store.errors import AdapterStoreError
from adapters_store.kernels import Journal, Kernels, RowKernels, rollback
from adapters_store.tiers.observer import TierObserver
from server.core.errors import SwitchFailed
from server.core.metrics import Metrics
from server.core.steps import SwitchKind, SwitchReport, VerifyReport
from server.execution.audit import audit
from server.execution.staging import AdapterSource, Staged, StagedBlends
from server.execution.weights import BaseWeights

log = logging.getLogger(__name__)


class FusedExecution:
    """Owns what is written into the weights. Engine thread only."""

    def __init__(
        self,
        weights: BaseWeights,
        kernels: Kernels,
        source: AdapterSource,
        *,
        device_budget_bytes: int,
        metrics: Metrics,
        row_kernels: RowKernels | None = None,
        mixable: Collection[str] = (),
        observer: TierObserver | None = None,
    ) -> None:
        """``mixable``: names of the weights that ``row_kernels`` can give every row its own of, for mixed mode."""
        self._weights = weights
        self._kernels = kernels
        self._metrics = metrics
        self.blends = StagedBlends(
            weights,
            kernels,
            source,
            budget_bytes=device_budget_bytes,
            row_kernels=row_kernels,
            mixable=mixable,
            observer=observer,
        )
        self._in: Staged | None = None  # what the weights hold, None for the base
        self._broken: str | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        return self._weights.fingerprint

    @property
    def active(self) -> Blend:
        return self._in.blend if self._in else BASE

    @property
    def staged(self) -> Staged | None:
        """The active blend as it was staged, held as long as it is active; None for the base."""
        return self._in

    @property
    def broken(self) -> str | None:
        """Why the weights can no longer be vouched for; None while they can."""
        return self._broken

    def activate(self, blend: Blend) -> SwitchReport:
        """After it returns the weights hold ``blend``. May block on the store if the bytes left the host.

        Raises SwitchFailed (the base is in, the next call works, unless ``broken`` says otherwise), or what staging
        raises: BlendRejected, BudgetExceeded, AdapterUnavailable … (the base is in)."""
        if self._broken:
            raise SwitchFailed(self._broken)
        if blend.key == self.active.key:
            return SwitchReport(kind="none")
        started = perf_counter()
        report = self._restore() if blend.is_base else self._bring_in(blend, started)
        self._observe(report)
        return report

    def restore(self) -> SwitchReport:
        """Back to the base. As ``activate(BASE)``."""
        return self.activate(BASE)

    def forget(self, version: Version) -> None:
        if version in self.active.versions:
            self.restore()
        self.blends.forget(version)

    def verify(self) -> Iterator[VerifyReport | None]:
        """Slice by slice, at last the report. A base that changed can no longer be vouched for: ``broken``."""
        for report in audit(self._weights, lambda: self._in.support if self._in else None):
            if report is not None and report.ok:
                self._metrics.base_verified.set_to_current_time()
            elif report is not None:
                self._metrics.base_integrity_failures.inc()
                self._metrics.base_changed.set_to_current_time()
                self._broken = f"an audit found other bits in {', '.join(report.mismatched)}"
                log.critical("the base has changed: %s", self._broken)
            yield report

    def describe(self) -> dict[str, Any]:
        members = [{"version": member.version, "scale": member.scale} for member in self.active.members]
        return {
            "kernels": self._kernels.name,
            "active": {"blend_key": self.active.key, "members": members, "fusion": self.active.fusion.method},
            "broken": self._broken,
            **self.blends.describe(),
        }

    def stage_and_hold(self, blend: Blend) -> Staged:
        """A blend that is not staged, held until ``blends.let_go``; the base is in afterwards, over which its words
        are computed. Raises as ``activate``."""
        if self._in:
            self.restore()
        started = perf_counter()
        staged = self._stage(blend)
        self._metrics.switch_seconds.labels("stage", "host").observe(perf_counter() - started)
        return staged

    def _bring_in(self, blend: Blend, started: float) -> SwitchReport:
        staged = self.blends.hold(blend)
        if staged is not None:
            kind, exchange_s = self._exchange(staged)
            return SwitchReport(kind=kind, exchange_s=exchange_s, total_s=perf_counter() - started)
        restore_s = self._restore().restore_s if self._in else 0.0  # words are computed from the base alone
        staging = perf_counter()
        staged = self._stage(blend)
        stage_s = perf_counter() - staging
        kind, exchange_s = self._exchange(staged)
        return SwitchReport(
            kind=kind if restore_s == 0.0 else "exchange",
            tier="host",
            stage_s=stage_s,
            exchange_s=exchange_s,
            restore_s=restore_s,
            total_s=perf_counter() - started,
        )

    def _stage(self, blend: Blend) -> Staged:
        try:
            return self.blends.stage_and_hold(blend)
        except AdapterStoreError:
            raise
        except Exception as error:
            raise SwitchFailed(f"blend {blend.key} could not be staged: {error}") from error

    def _exchange(self, into: Staged) -> tuple[SwitchKind, float]:
        """Writes a held blend over whatever is in the weights; lets the old one go."""
        out = self._in
        journal = Journal()
        started = perf_counter()
        try:
            kind = self._write(out, into, journal)
            self._settle()
        except Exception as error:
            self._roll_back(out, into, journal)
            self.blends.let_go(into)
            raise SwitchFailed(f"switching to {into.blend.key} failed, the base was restored: {error}") from error
        self._in = into
        if out:
            self.blends.let_go(out)
        return kind, perf_counter() - started

    def _write(self, out: Staged | None, into: Staged, journal: Journal) -> SwitchKind:
        if out is None:
            self._kernels.exchange(into.support.bound, into.words, into.support.displaced, journal)
            return "fuse"
        if out.support is into.support:  # the displaced words stay what they are: the base's
            self._kernels.overwrite(into.support.bound, into.words)
            return "overwrite"
        self._kernels.switch(
            out.support.bound,
            out.support.displaced,
            into.support.bound,
            into.words,
            into.support.displaced,
            journal=journal,
        )
        return "exchange"

    def _restore(self) -> SwitchReport:
        out = self._in
        if out is None:
            return SwitchReport(kind="none")
        started = perf_counter()
        try:
            self._kernels.overwrite(out.support.bound, out.support.displaced)
            self._settle()
        except Exception as error:
            self._roll_back(out, None, Journal())
            raise SwitchFailed(f"restoring the base failed at first, it is in now: {error}") from error
        self._in = None
        self.blends.let_go(out)
        restore_s = perf_counter() - started
        return SwitchReport(kind="restore", restore_s=restore_s, total_s=restore_s)

    def _roll_back(self, out: Staged | None, into: Staged | None, journal: Journal) -> None:
        """Whatever was half done, the weights hold the base afterwards; or ``broken`` is set and nothing runs."""
        try:
            if into is not None and not (out and out.support is into.support):
                rollback(self._kernels, journal, into.support.bound, into.support.displaced)
            if out is not None:  # after an overwrite these are the originals of both
                self._kernels.overwrite(out.support.bound, out.support.displaced)
            self._settle()
        except Exception as error:
            self._broken = f"the base could not be restored after a failed switch ({error}); restart the server"
            raise SwitchFailed(self._broken) from error
        self._in = None
        if out is not None:
            self.blends.let_go(out)

    def _settle(self) -> None:
        """Waits for the device, so that a failure shows here and times are true."""
        if self._weights.device.type == "cuda":
            torch.cuda.synchronize(self._weights.device)

    def _observe(self, report: SwitchReport) -> None:
        self._metrics.switches.labels(report.kind).inc()
        phases = {"stage": report.stage_s, "exchange": report.exchange_s, "restore": report.restore_s}
        for phase, seconds in phases.items():
            if seconds:
                self._metrics.switch_seconds.labels(phase, report.tier).observe(seconds)
        self._metrics.switch_seconds.labels("total", report.tier).observe(report.total_s)
