"""One adapter trained: LoRA under PEFT, any mask under ours, by the same fit on the same rows; the file it leaves."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from adapters_store.adapter import Adapter, sha256_digest
from adapters_store.durable import make_dir_durably
from adapters_store.format import read_adapter, write_adapter
from adapters_store.tools.calibrate import accumulated_gradients
from adapters_store.tools.checkpoint import stored_weights
from adapters_store.tools.data import Examples
from adapters_store.tools.fit import fit
from adapters_store.tools.masks import MaskName
from adapters_store.tools.reproduction.lora import (
    WEIGHTS_FILE,
    attach_lora,
    check_finite,
    load_lora,
    load_unmerged,
    num_trained,
)
from adapters_store.tools.reproduction.plan import DOMAINS, Method
from adapters_store.tools.reproduction.workbench import Workbench
from adapters_store.tools.train_adapter import choose_mask, train_adapter
from adapters_store.tools.train_options import TrainOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``key`` is the cell's, and the name of the file."""

    key: str
    method: Method
    domain: str
    seed: int
    learning_rate: float

    @property
    def own_seed(self) -> int:
        """Of the random mask, LoRA's first factors, and the rows drawn and their order. Domains have seeds of their
        own, so that three random masks are three; methods share them, so that all learn from the same rows."""
        return 1000 * self.seed + DOMAINS.index(self.domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``seconds`` without loading the model; choosing the mask, calibration included, is ``mask_seconds``."""

    num_parameters: int
    train_loss: float
    mask_seconds: float
    train_seconds: float


def train_run(bench: Workbench, run: Run) -> Outcome:
    """Leaves the adapter in the work directory, whole or not at all.

    Raises TrainingRefused, of the field ``learning_rate`` where training diverged."""
    settings = bench.settings
    make_dir_durably(settings.work_dir)
    examples = bench.splits[run.domain].drawn(settings.steps * settings.batch_size, run.own_seed)
    if run.method.mask is None:
        return _train_lora(bench, run, examples)
    return _train_sparse(bench, run, run.method.mask, examples)


def has_trained(bench: Workbench, run: Run) -> bool:
    return _path(bench, run).exists()


def trained_digest(bench: Workbench, run: Run) -> str:
    """What names the trained file's content: an adapter's version, the digest of LoRA's factors."""
    path = _path(bench, run)
    if run.method.mask is None:
        return sha256_digest((path / WEIGHTS_FILE).read_bytes())
    return read_adapter(path, base=bench.base).adapter.version


def load_trained(bench: Workbench, run: Run) -> Adapter:
    path = _path(bench, run)
    if run.method.mask is None:
        return load_lora(path, base=bench.base.fingerprint, all_positions=bench.all_positions)
    return read_adapter(path, base=bench.base).adapter


def measure_unmerged(bench: Workbench, run: Run) -> dict[str, float]:
    """Test losses of LoRA beside the weights, by domain."""
    return bench.losses_of(load_unmerged(bench.fresh_model(), _path(bench, run)), "test")


def _train_sparse(bench: Workbench, run: Run, mask: MaskName, examples: Examples) -> Outcome:
    options = _options(bench, run, mask)
    model = bench.fresh_model()
    started = time.monotonic()
    index_set = choose_mask(
        stored_weights(options.model_dir, bench.names),
        options,
        lambda: accumulated_gradients(
            model, bench.names, examples.spread(options.calibration_examples), batch_size=options.batch_size
        ),
    )
    chosen = time.monotonic()
    trained = train_adapter(model, index_set, examples, options, base=bench.base.fingerprint)
    finished = time.monotonic()
    write_adapter(trained.adapter, _path(bench, run))
    return Outcome(
        num_parameters=trained.num_trained,
        train_loss=trained.outcome.mean_loss,
        mask_seconds=chosen - started,
        train_seconds=finished - chosen,
    )


def _train_lora(bench: Workbench, run: Run, examples: Examples) -> Outcome:
    model = attach_lora(bench.fresh_model(), bench.settings.targets, seed=run.own_seed)
    started = time.monotonic()
    outcome = fit(model, examples, _options(bench, run, "wm"))  # fit knows nothing of masks
    seconds = time.monotonic() - started
    check_finite(model)
    path = _path(bench, run)
    with tempfile.TemporaryDirectory(dir=bench.settings.work_dir) as scratch:
        folder = Path(scratch) / path.name
        model.save_pretrained(folder)
        shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)
    return Outcome(
        num_parameters=num_trained(model), train_loss=outcome.mean_loss, mask_seconds=0.0, train_seconds=seconds
    )


def _options(bench: Workbench, run: Run, mask: MaskName) -> TrainOptions:
    settings = bench.settings
    return TrainOptions(
        model_dir=settings.model_dir,
        data=settings.data_dir / f"{run.domain}.txt",
        output=_path(bench, run),
        mask=mask,
        sparsity=bench.regime.sparsity,
        task=DOMAINS.index(run.domain) if run.method.is_disjoint else 0,
        calibration_examples=settings.calibration_examples,
        dora=run.method.is_dora,
        targets=settings.targets,
        seed=run.own_seed,
        learning_rate=run.learning_rate,
        max_steps=settings.steps,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        precision="bfloat16",
        device=settings.device,
    )


def _path(bench: Workbench, run: Run) -> Path:
    """A file, or the folder of a LoRA."""
    return bench.settings.work_dir / (run.key if run.method.mask is None else f"{run.key}.safetensors")
