"""Training that is cut short leaves no adapter, and resumed gives the adapter of a run that was never cut."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from adapters_store.adapter import Version
from adapters_store.errors import StorageFull, TrainingRefused
from adapters_store.tools import fit as fit_module
from adapters_store.tools import train_lesson
from adapters_store.tools.fit import newest_checkpoint
from adapters_store.tools.train import TrainOptions, train

KILLED_AT_STEP = """
import os, signal, sys
from pathlib import Path
import torch
from adapters_store.tools.train import TrainOptions, train
from adapters_store.tools.train_progress import ProgressBar

torch.set_num_threads(1)
model_dir, data, output, mask, dora, step = sys.argv[1:]
ended = ProgressBar.on_step_end

def on_step_end(self, args, state, control, **rest):
    ended(self, args, state, control, **rest)
    if state.global_step == int(step):
        os.kill(os.getpid(), signal.SIGKILL)

ProgressBar.on_step_end = on_step_end
train(TrainOptions(
    model_dir=Path(model_dir), data=Path(data), output=Path(output), mask=mask, dora=dora == "True",
    sparsity=1 / 32, learning_rate=1e-2, max_steps=9, batch_size=4, sequence_length=16, checkpoint_steps=2,
))
"""


@pytest.fixture
def options(model_dir: Path, tmp_path: Path) -> TrainOptions:
    text = tmp_path / "text.txt"
    text.write_text("abc def gh " * 200)
    return TrainOptions(
        model_dir=model_dir, data=text, output=tmp_path / "adapter.safetensors", sparsity=1 / 32, learning_rate=1e-2,
        max_steps=9, batch_size=4, sequence_length=16, checkpoint_steps=2,
    )  # fmt: skip


def uninterrupted(options: TrainOptions) -> Version:
    return train(replace(options, output=options.output.with_name("whole.safetensors"))).version


def kill_at_step(options: TrainOptions, step: int) -> None:
    arguments = [options.model_dir, options.data, options.output, options.mask, options.dora, step]
    command = [sys.executable, "-W", "error", "-c", KILLED_AT_STEP, *map(str, arguments)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9


@pytest.mark.parametrize(("mask", "is_dora"), [("wm", False), ("snip", True)])
def test_a_killed_training_resumes_to_the_very_adapter_of_an_uninterrupted_one(
    options: TrainOptions, mask: Any, is_dora: bool
) -> None:
    options = replace(options, mask=mask, dora=is_dora)
    kill_at_step(options, 7)
    assert not options.output.exists()
    newest = newest_checkpoint(options.progress_dir)
    assert newest is not None
    assert newest.name == "checkpoint-6"
    with pytest.raises(TrainingRefused, match="resume: expected to be given"):
        train(options)
    report = train(replace(options, resume=True))
    assert report.version == uninterrupted(options)
    assert report.num_steps == 9
    assert not options.progress_dir.exists()


def test_a_checkpoint_that_was_not_written_to_its_end_does_not_count(options: TrainOptions) -> None:
    kill_at_step(options, 5)
    whole = newest_checkpoint(options.progress_dir)
    assert whole is not None
    torn = whole.with_name("checkpoint-6")
    shutil.copytree(whole, torn)
    (torn / "trainer_state.json").unlink()
    (torn / "optimizer.pt").write_bytes(b"half")
    assert newest_checkpoint(options.progress_dir) == whole
    assert train(replace(options, resume=True)).version == uninterrupted(options)


def test_training_that_was_cut_after_its_last_step_takes_no_other(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer took one more from a last checkpoint: with a rate that does not fall to 0, another adapter."""
    options = replace(options, schedule="constant")
    with monkeypatch.context() as patch:
        patch.setattr(train_lesson, "write_adapter", Mock(side_effect=StorageFull("full")))
        with pytest.raises(StorageFull):
            train(options)
    whole = train(replace(options, output=options.output.with_name("whole.safetensors")))
    report = train(replace(options, resume=True))
    assert (report.version, report.num_steps, report.train_loss) == (whole.version, 9, whole.train_loss)


def test_resuming_what_never_began_begins_it(options: TrainOptions) -> None:
    assert train(replace(options, resume=True)).version == uninterrupted(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: expected 0, as when training began, got 1"),
        ({"sparsity": 0.5}, "sparsity: expected 0.03125"),
    ],
)
def test_another_recipe_does_not_resume_it_and_leaves_it_alone(
    options: TrainOptions, change: dict[str, Any], message: str
) -> None:
    kill_at_step(options, 5)
    with pytest.raises(TrainingRefused, match=message):
        train(replace(options, resume=True, **change))
    options.data.write_text("hg fed cba " * 200)
    with pytest.raises(TrainingRefused, match="data_digest: expected sha256"):
        train(replace(options, resume=True))
    assert newest_checkpoint(options.progress_dir) is not None


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_the_users_own_is_left_alone(options: TrainOptions, resume: bool) -> None:
    options.progress_dir.mkdir()
    note = options.progress_dir / "mine.txt"
    note.write_text("of value")
    with pytest.raises(TrainingRefused, match=r"output: expected nothing in the way .* did not put there"):
        train(replace(options, resume=resume))
    assert note.read_text() == "of value"
    shutil.rmtree(options.progress_dir)
    options.progress_dir.write_text("a file")
    with pytest.raises(TrainingRefused, match="output: expected nothing in the way"):
        train(replace(options, resume=resume))


def test_a_full_disk_is_told_and_what_was_kept_until_then_resumes(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = fit_module._Trainer._save_rng_state

    def refuse_the_third(self: Any, output_dir: str) -> None:
        if self.state.global_step == 6:
            raise OSError(28, "No space left on device")
        save(self, output_dir)

    monkeypatch.setattr(fit_module._Trainer, "_save_rng_state", refuse_the_third)
    with pytest.raises(StorageFull, match=r"checkpoint of training: .*No space left"):
        train(options)
    monkeypatch.undo()
    assert not options.output.exists()
    newest = newest_checkpoint(options.progress_dir)
    assert newest is not None
    assert newest.name == "checkpoint-4"
    assert train(replace(options, resume=True)).version == uninterrupted(options)


def test_too_little_space_is_told_before_the_first_step(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(options.output.parent)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageFull, match="bytes free, got 100"):
        train(options)
    assert not options.output.exists()
