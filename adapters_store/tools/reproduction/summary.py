"""Figures over seeds and domains, out of the cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from adapters_store.errors import TrainingRefused
from adapters_store.tools.reproduction.cells import AloneCell, BaseCell, Cell, FusedCell, SweepCell
from adapters_store.tools.reproduction.plan import DOMAINS, LORA, METHODS
from adapters_store.tools.reproduction.regime import Regime


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure a seed."""

    figures: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.figures)

    @property
    def std(self) -> float | None:
        """Of the sample; None for one seed."""
        return stdev(self.figures) if len(self.figures) > 1 else None


class Summary:
    """Cells of one regime, the base among them. Losses are test losses, in nats; ``mean`` is over the domains.

    Raises TrainingRefused for cells of more than one regime."""

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self.cells = cells
        for cell in cells.values():
            difference = cell.regime.difference(self.regime)
            if difference is not None:
                raise TrainingRefused(difference[0], expected=str(difference[2]), got=f"{difference[1]} in {cell.key}")

    @property
    def regime(self) -> Regime:
        return next(iter(self.cells.values())).regime

    @cached_property
    def base(self) -> BaseCell:
        return next(cell for cell in self.cells.values() if isinstance(cell, BaseCell))

    @cached_property
    def sweeps(self) -> dict[str, dict[float, float | None]]:
        """Validation loss by method and learning rate, ascending; None where training diverged."""
        found = [cell for cell in self.cells.values() if isinstance(cell, SweepCell)]
        return {
            method: {
                cell.learning_rate: cell.validation
                for cell in sorted(found, key=lambda cell: cell.learning_rate)
                if cell.method == method
            }
            for method in _in_order(cell.method for cell in found)
        }

    @cached_property
    def alone_methods(self) -> list[str]:
        """Those with a seed that is complete over the domains."""
        return [method for method in _in_order(cell.method for cell in self._alone) if self.alone_seeds(method)]

    @cached_property
    def fused_methods(self) -> list[str]:
        return _in_order(cell.method for cell in self._fused)

    def alone_seeds(self, method: str) -> list[int]:
        """Seeds with a cell for every domain."""
        seeds = sorted({cell.seed for cell in self._alone if cell.method == method})
        return [seed for seed in seeds if len(self.alone(method, seed)) == len(DOMAINS)]

    def alone(self, method: str, seed: int) -> dict[str, AloneCell]:
        """By domain, in the order of the plan."""
        found = {cell.domain: cell for cell in self._alone if (cell.method, cell.seed) == (method, seed)}
        return {domain: found[domain] for domain in DOMAINS if domain in found}

    def fused(self, method: str) -> dict[int, FusedCell]:
        """By seed."""
        return {cell.seed: cell for cell in sorted(self._fused, key=lambda cell: cell.seed) if cell.method == method}

    def alone_loss(self, method: str, domain: str | None, *, unmerged: bool = False) -> Spread:
        """On the domain that each was trained for, or the mean over the domains."""
        return Spread(
            tuple(self._own(self.alone(method, seed), domain, unmerged=unmerged) for seed in self.alone_seeds(method))
        )

    def alone_of_fused(self, method: str) -> Spread:
        """The mean over the domains, each adapter alone, of just the seeds that are fused."""
        return Spread(tuple(self._own(self.alone(method, seed), None) for seed in self.fused(method)))

    def forgetting(self, method: str) -> Spread:
        """What the loss on the other domains rises by against the base, the mean over domains and others."""
        return Spread(
            tuple(
                fmean(
                    cell.test[other] - self.base.test[other]
                    for cell in self.alone(method, seed).values()
                    for other in DOMAINS
                    if other != cell.domain
                )
                for seed in self.alone_seeds(method)
            )
        )

    def fused_loss(self, method: str, fusion: str, domain: str | None) -> Spread:
        return Spread(tuple(_mean_or(cell.fusions[fusion].test, domain) for cell in self.fused(method).values()))

    def against_lora(self, method: str) -> Spread | None:
        """How much higher than LoRA's the mean loss alone is, of the seeds that both have; None without any."""
        seeds = [seed for seed in self.alone_seeds(method) if seed in self.alone_seeds(LORA)]
        if method == LORA or not seeds:
            return None
        return Spread(
            tuple(self._own(self.alone(method, seed), None) - self._own(self.alone(LORA, seed), None) for seed in seeds)
        )

    def fused_against_lora(self, method: str, fusion: str) -> Spread | None:
        """As ``against_lora``, of the fused."""
        ours, theirs = self.fused(method), self.fused(LORA)
        seeds = [seed for seed in ours if seed in theirs]
        if method == LORA or not seeds:
            return None
        return Spread(
            tuple(
                fmean(ours[seed].fusions[fusion].test.values()) - fmean(theirs[seed].fusions[fusion].test.values())
                for seed in seeds
            )
        )

    def gain_kept(self, method: str, fusion: str) -> Spread:
        """(base − fused) / (base − alone), of the means over the domains: 1 is each adapter alone, below 0 is worse
        than no adapter at all."""
        base = fmean(self.base.test.values())
        fused, alone = self.fused_loss(method, fusion, None).figures, self.alone_of_fused(method).figures
        return Spread(tuple((base - loss) / (base - own) for loss, own in zip(fused, alone, strict=True)))

    @cached_property
    def _alone(self) -> Sequence[AloneCell]:
        return [cell for cell in self.cells.values() if isinstance(cell, AloneCell)]

    @cached_property
    def _fused(self) -> Sequence[FusedCell]:
        return [cell for cell in self.cells.values() if isinstance(cell, FusedCell)]

    def _own(self, cells: Mapping[str, AloneCell], domain: str | None, *, unmerged: bool = False) -> float:
        own = {}
        for name, cell in cells.items():
            test = cell.test_unmerged if unmerged else cell.test
            assert test is not None
            own[name] = test[name]
        return _mean_or(own, domain)


def _mean_or(losses: Mapping[str, float], domain: str | None) -> float:
    return fmean(losses.values()) if domain is None else losses[domain]


def _in_order(methods: Iterable[str]) -> list[str]:
    found = set(methods)
    return [method.name for method in METHODS if method.name in found]
