"""One measured cell, one JSON file: complete in itself, written whole or not at all, never measured twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapters_store.durable import make_dir_durably, write_durably
from adapters_store.errors import TrainingRefused
from adapters_store.tools.reproduction.regime import Regime


class _Cell(BaseModel):
    """Losses are means per predicted token, in nats, by domain. ``seconds`` are wall-clock, by what was done,
    without loading models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    regime: Regime
    seconds: dict[str, float]
    versions: dict[str, str | None]
    machine: dict[str, str | int | None]


class BaseCell(_Cell):
    kind: Literal["base"] = "base"
    validation: dict[str, float]
    test: dict[str, float]


class SweepCell(_Cell):
    """``validation`` is None where training diverged."""

    kind: Literal["sweep"] = "sweep"
    method: str
    domain: str
    seed: int
    learning_rate: float
    validation: float | None


class AloneCell(_Cell):
    """``adapter`` is the digest of the trained file. ``test`` is of the weights as the server would write them;
    ``test_unmerged`` of LoRA beside the weights, as PEFT serves it."""

    kind: Literal["alone"] = "alone"
    method: str
    domain: str
    seed: int
    learning_rate: float
    num_parameters: int
    num_touched: int  # weights that differ, at most: all of them for LoRA
    num_tokens: int
    adapter: str
    train_loss: float
    validation: dict[str, float]
    test: dict[str, float]
    test_unmerged: dict[str, float] | None = None


class Fused(BaseModel):
    """``validation`` is the mean over the domains at ``alpha``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float
    test: dict[str, float]


class PairFigures(BaseModel):
    """Positions that both touch or one alone; of the shared, those with opposite signs; AWOM of the whole model and
    AWOR, the mean over its weights, as in the paper's section 4.2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domains: tuple[str, str]
    shared: int
    only_a: int
    only_b: int
    sign_conflicts: int
    delta_cosine: float | None
    awom: float
    awor: float


class FusedCell(_Cell):
    """All domains' adapters of one method and seed at once. ``fusions`` by name; ``validation`` the mean over the
    domains of the sum at each alpha, which chooses that of ``sum-tuned``. ``retrained``: domains whose adapter file was
    missing and is not the very one its cell measured."""

    kind: Literal["fused"] = "fused"
    method: str
    seed: int
    adapters: dict[str, str]
    retrained: list[str]
    validation: dict[str, float]
    fusions: dict[str, Fused]
    pairs: list[PairFigures]


Cell = BaseCell | SweepCell | AloneCell | FusedCell
_CELL: TypeAdapter[Cell] = TypeAdapter(Annotated[Cell, Field(discriminator="kind")])


class CellFolder:
    """The cells of one regime. ``path_of`` a key is where its file is or would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def find(self, key: str, regime: Regime) -> Cell | None:
        """The finished cell of this key. Raises TrainingRefused when it was measured under another regime."""
        path = self.path_of(key)
        if not path.exists():
            return None
        cell = _read(path)
        difference = cell.regime.difference(regime)
        if difference is not None:
            field, theirs, ours = difference
            raise TrainingRefused(
                field, expected=f"{theirs}, as in the finished {path.name} (or another output directory)", got=str(ours)
            )
        return cell

    def write(self, cell: Cell) -> None:
        make_dir_durably(self.folder)
        text = cell.model_dump_json(indent=2) + "\n"
        write_durably(self.path_of(cell.key), [text.encode()], tmp_dir=self.folder)

    def all(self) -> Mapping[str, Cell]:
        """Every finished cell by key, in ascending order. Raises TrainingRefused for a file that is none."""
        cells = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        return {cell.key: cell for cell in cells}


def _read(path: Path) -> Cell:
    try:
        return _CELL.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TrainingRefused(
            str(path), expected="a cell of the reproduction", got=f"{where}: {first['msg']}"
        ) from None
