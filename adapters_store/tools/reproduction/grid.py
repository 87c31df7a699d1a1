"""Runs the plan: every cell that is missing, the most important first."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from adapters_store.adapter import Adapter
from adapters_store.errors import TrainingRefused
from adapters_store.tools.reproduction.cells import (
    AloneCell,
    BaseCell,
    Cell,
    CellFolder,
    FusedCell,
    SweepCell,
)
from adapters_store.tools.reproduction.fusing import fuse_all, tune_alpha
from adapters_store.tools.reproduction.lora import require_peft
from adapters_store.tools.reproduction.pairs import pair_figures
from adapters_store.tools.reproduction.plan import (
    BASE_KEY,
    DOMAINS,
    FIRST_RATES,
    LORA,
    METHODS,
    SWEEP_DOMAIN,
    SWEEP_SEED,
    Method,
    alone_key,
    fused_key,
    next_rate,
    order,
    sweep_key,
    swept,
)
from adapters_store.tools.reproduction.settings import Settings
from adapters_store.tools.reproduction.training import (
    Outcome,
    Run,
    has_trained,
    load_trained,
    measure_unmerged,
    train_run,
    trained_digest,
)
from adapters_store.tools.reproduction.workbench import Workbench

logger = logging.getLogger(__name__)
CellT = TypeVar("CellT", BaseCell, SweepCell, AloneCell, FusedCell)


def run_grid(settings: Settings) -> Iterator[Cell]:
    """Yields each cell once it is measured and on disk. To be stopped at any point and started again: what is finished
    is never measured twice. Raises TrainingRefused for cells of another regime in the output directory, a method that
    there is not, and texts that are missing or too short."""
    _check_methods(settings.methods)
    grid = _Grid(settings)
    yield from grid.base()
    for method in swept(settings.methods):
        yield from grid.sweep(method)
    for method, seed in order(settings.methods, settings.seeds, settings.other_seeds):
        for domain in DOMAINS:
            yield from grid.alone(method, domain, seed)
        yield from grid.fused(method, seed)


def _check_methods(names: Sequence[str]) -> None:
    known = [method.name for method in METHODS]
    for name in names:
        if name not in known:
            raise TrainingRefused("method", expected=f"one of {', '.join(known)}", got=repr(name))
    if LORA in names:
        require_peft()


class _Grid:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bench = Workbench(settings)
        self.folder = CellFolder(settings.cells_dir)

    def base(self) -> Iterator[Cell]:
        if self._find(BASE_KEY, BaseCell) is not None:
            return
        clock = _Clock()
        validation, test = self.bench.losses([], "validation"), self.bench.losses([], "test")
        clock.lap("measure")
        yield self._write(BaseCell(validation=validation, test=test, **self._common(BASE_KEY, clock)))

    def sweep(self, method: Method) -> Iterator[Cell]:
        while (rate := next_rate(FIRST_RATES[method.name], self._sweep_losses(method))) is not None:
            yield self._write(self._measure_rate(method, rate))

    def alone(self, method: Method, domain: str, seed: int) -> Iterator[Cell]:
        key = alone_key(method, domain, seed)
        if self._find(key, AloneCell) is not None:
            return
        run = Run(key=key, method=method, domain=domain, seed=seed, learning_rate=self._chosen_rate(method))
        outcome = train_run(self.bench, run)
        clock = _Clock(outcome)
        adapter = load_trained(self.bench, run)
        validation = self.bench.losses([(adapter, 1.0)], "validation", domains=[domain])
        test = self.bench.losses([(adapter, 1.0)], "test")
        clock.lap("measure")
        unmerged = measure_unmerged(self.bench, run) if method.mask is None else None
        cell = AloneCell(
            method=method.name,
            domain=domain,
            seed=seed,
            learning_rate=run.learning_rate,
            num_parameters=outcome.num_parameters,
            num_touched=adapter.index_set.num_entries,
            num_tokens=self.settings.num_tokens,
            adapter=trained_digest(self.bench, run),
            train_loss=outcome.train_loss,
            validation=validation,
            test=test,
            test_unmerged=unmerged,
            **self._common(key, clock),
        )
        yield self._write(cell)

    def fused(self, method: Method, seed: int) -> Iterator[Cell]:
        key = fused_key(method, seed)
        if self._find(key, FusedCell) is not None:
            return
        clock = _Clock()
        adapters: dict[str, Adapter] = {}
        digests: dict[str, str] = {}
        retrained: list[str] = []
        for domain in DOMAINS:
            alone = self._find(alone_key(method, domain, seed), AloneCell)
            assert alone is not None
            run = Run(key=alone.key, method=method, domain=domain, seed=seed, learning_rate=alone.learning_rate)
            if not has_trained(self.bench, run) or trained_digest(self.bench, run) != alone.adapter:
                logger.warning("%s: its adapter is not in the work directory; training it again", run.key)
                train_run(self.bench, run)
            digests[domain] = trained_digest(self.bench, run)
            if digests[domain] != alone.adapter:
                logger.warning("%s: trained again, it is not the one that its cell measured", run.key)
                retrained.append(domain)
            adapters[domain] = load_trained(self.bench, run)
        clock.lap("load")
        validation = tune_alpha(self.bench, adapters)
        clock.lap("tune")
        fusions = fuse_all(self.bench, adapters, validation)
        clock.lap("measure")
        pairs = pair_figures(adapters)
        clock.lap("overlap")
        cell = FusedCell(
            method=method.name,
            seed=seed,
            adapters=digests,
            retrained=retrained,
            validation=validation,
            fusions=fusions,
            pairs=pairs,
            **self._common(key, clock),
        )
        yield self._write(cell)

    def _measure_rate(self, method: Method, rate: float) -> SweepCell:
        key = sweep_key(method, rate)
        run = Run(key=key, method=method, domain=SWEEP_DOMAIN, seed=SWEEP_SEED, learning_rate=rate)
        clock = _Clock()
        loss: float | None = None
        try:
            clock = _Clock(train_run(self.bench, run))
            members = [(load_trained(self.bench, run), 1.0)]
            loss = self.bench.losses(members, "validation", domains=[SWEEP_DOMAIN])[SWEEP_DOMAIN]
        except TrainingRefused as error:
            if error.field != "learning_rate":
                raise
            logger.warning("%s: %s", key, error)
        clock.lap("measure")
        return SweepCell(
            method=method.name,
            domain=SWEEP_DOMAIN,
            seed=SWEEP_SEED,
            learning_rate=rate,
            validation=loss if loss is not None and math.isfinite(loss) else None,
            **self._common(key, clock),
        )

    def _sweep_losses(self, method: Method) -> dict[float, float]:
        """Validation loss by learning rate; infinite where training diverged."""
        cells = [cell for cell in self.folder.all().values() if isinstance(cell, SweepCell)]
        found = [self._find(cell.key, SweepCell) for cell in cells if cell.method == method.name]
        return {
            cell.learning_rate: math.inf if cell.validation is None else cell.validation
            for cell in found
            if cell is not None
        }

    def _chosen_rate(self, method: Method) -> float:
        losses = self._sweep_losses(swept([method.name])[0])
        return min(losses, key=losses.__getitem__)

    def _find(self, key: str, kind: type[CellT]) -> CellT | None:
        cell = self.folder.find(key, self.bench.regime)
        if cell is not None and not isinstance(cell, kind):
            raise TrainingRefused(key, expected=f"a cell of {kind.__name__}", got=type(cell).__name__)
        return cell

    def _write(self, cell: Cell) -> Cell:
        self.folder.write(cell)
        return cell

    def _common(self, key: str, clock: _Clock) -> dict[str, Any]:
        return {
            "key": key,
            "regime": self.bench.regime,
            "seconds": {what: round(seconds, 2) for what, seconds in clock.seconds.items()},
            "versions": self.bench.versions,
            "machine": self.bench.machine,
        }


class _Clock:
    """``lap`` books the time since the last one."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.seconds = {} if outcome is None else {"mask": outcome.mask_seconds, "train": outcome.train_seconds}
        self._since = time.monotonic()

    def lap(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what] = now - self._since
        self._since = now
