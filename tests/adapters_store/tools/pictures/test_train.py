from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters_store.base import describe_checkpoint
from adapters_store.errors import TrainingRefused
from adapters_store.format import read_adapter, unpack_positions
from adapters_store.tools.applied import applied
from adapters_store.tools.fit import fit
from adapters_store.tools.pictures.pipeline import adaptable_module, load_pipeline
from adapters_store.tools.pictures.train import PictureOptions, picture_lesson, train_pictures
from adapters_store.tools.sparse_parametrisation import SparseParametrisation
from adapters_store.tools.train_progress import ProgressBar
from tests.adapters_store.tools.pictures.conftest import pipeline_dir
from tests.server.runners.tiny_pipelines import Family


@pytest.fixture
def one_picture(options: PictureOptions) -> PictureOptions:
    for path in options.data.glob("[bg]*"):
        path.unlink()
    return replace(options, learning_rate=3e-2, max_steps=25, caption_dropout=0.0)


@pytest.mark.parametrize("mask", ["wm", "rand", "struct", "grad", "snip"])
def test_every_mask_learns_one_picture_by_heart(one_picture: PictureOptions, mask: Any) -> None:
    report = train_pictures(replace(one_picture, mask=mask, sparsity=0.1))
    assert report.held_out_loss_after < 0.8 * report.held_out_loss_before
    assert report.num_held_out == 0
    adapter = read_adapter(report.output, base=describe_checkpoint(one_picture.model_dir)).adapter
    shapes = {len(entry.shape) for entry in adapter.index_set.table}
    assert shapes == {2, 4}
    assert all(entry.name.startswith("unet.") for entry in adapter.index_set.table)
    assert report.num_weights == len(adapter.index_set.table)
    assert report.loss_curve.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("family", "denoiser"), [("sdxl", "unet"), ("sd3", "transformer"), ("flux", "transformer")])
def test_every_family_learns_in_its_denoiser_and_its_text_encoders(
    one_picture: PictureOptions, pipelines: Path, family: Family, denoiser: str
) -> None:
    model_dir = pipeline_dir(pipelines, family)
    encoders = ("text_encoder", "text_encoder_2")
    report = train_pictures(
        replace(one_picture, model_dir=model_dir, targets=(denoiser, *encoders), sparsity=0.1, max_steps=15)
    )
    assert report.held_out_loss_after < 0.95 * report.held_out_loss_before
    adapter = read_adapter(report.output, base=describe_checkpoint(model_dir)).adapter
    moved = {
        entry.name.partition(".")[0]
        for entry, start in zip(adapter.index_set.table, adapter.index_set.entry_starts, strict=False)
        if adapter.values[start : start + entry.count].any()
    }
    assert moved == {denoiser, *encoders}


def test_what_is_written_is_the_trained_weights_minus_the_base_exactly_where_the_mask_is(
    options: PictureOptions,
) -> None:
    train_pictures(options)
    adapter = read_adapter(options.output, base=None).adapter
    counted, lesson = picture_lesson(options)
    base = {name: parameter.detach().clone() for name, parameter in lesson.model.named_parameters()}
    with SparseParametrisation(lesson.model, adapter.index_set) as sparse:
        fit(lesson.model, lesson.training, counted)
        lesson.measure()  # the forward pass that writes the last values into the weights
        trained = {name: layer.weight.detach().clone() for name, layer in sparse.layers.items()}
    values = torch.split(adapter.values, [entry.count for entry in adapter.index_set.table])
    for (entry, flat), value in zip(unpack_positions(adapter.index_set), values, strict=True):
        before, after = base[entry.name].flatten(), trained[entry.name].flatten()
        assert torch.equal(after[flat], before[flat] + value)
        after[flat] = before[flat]
        assert torch.equal(after, before)
    assert all(torch.equal(parameter, base[name]) for name, parameter in lesson.model.named_parameters())
    assert adapter.values.count_nonzero() > 0.9 * len(adapter.values)


def test_an_adapter_changes_the_picture_that_is_drawn_and_nothing_after_it(one_picture: PictureOptions) -> None:
    train_pictures(one_picture)
    base = describe_checkpoint(one_picture.model_dir)
    pipeline = load_pipeline(one_picture.model_dir, dtype=torch.float32, device="cpu")

    def draw() -> bytes:
        generator = torch.Generator().manual_seed(0)
        picture: bytes = pipeline("a red half", num_inference_steps=2, generator=generator).images[0].tobytes()
        return picture

    before = draw()
    with applied(adaptable_module(pipeline, base), [(read_adapter(one_picture.output, base=base).adapter, 1.0)]):
        assert draw() != before
    assert draw() == before


def test_the_same_options_give_the_same_version_and_another_seed_another(options: PictureOptions) -> None:
    options = replace(options, flip=True, mask="snip")
    versions = [
        train_pictures(replace(options, seed=seed, output=options.output.with_name(name))).version
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert versions[0] == versions[1] != versions[2]


def test_training_that_was_interrupted_resumes_to_the_very_adapter(
    options: PictureOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, max_steps=6, checkpoint_steps=2)
    whole = train_pictures(replace(options, output=options.output.with_name("whole")))
    ended = ProgressBar.on_step_end

    def stop_after_the_fifth(self: ProgressBar, args: Any, state: Any, control: Any, **rest: Any) -> None:
        ended(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "on_step_end", stop_after_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            train_pictures(options)
    assert not options.output.exists()
    report = train_pictures(replace(options, resume=True))
    assert (report.version, report.train_loss) == (whole.version, whole.train_loss)


def test_a_concept_is_learned_from_pictures_without_captions_beside_what_the_base_should_keep(
    options: PictureOptions, tmp_path: Path
) -> None:
    prior = tmp_path / "prior"
    shutil.move(options.data, prior)
    options.data.mkdir()
    shutil.move(prior / "red.png", options.data)
    options = replace(
        options, caption="a zorp", prior_data=prior, prior_caption="a half", prior_weight=0.5, caption_dropout=0.0
    )
    _, lesson = picture_lesson(options)
    shown = {(int(draw["caption"]), float(draw["weight"])) for draw in (lesson.training[n] for n in range(12))}
    assert getattr(lesson.model, "captions", None) == ["", "a half", "a zorp"]
    assert shown == {(2, 1.0), (1, 0.5)}
    train_pictures(options)
    card = read_adapter(options.output, base=None).card
    assert card is not None
    assert (card["caption"], card["prior_data"], card["prior_weight"]) == ("a zorp", "prior", 0.5)


def test_pictures_that_are_held_out_are_never_trained_on(options: PictureOptions) -> None:
    _, lesson = picture_lesson(replace(options, held_out=0.34, caption_dropout=0.0))
    assert lesson.num_held_out == 1
    assert {int(lesson.training[number]["caption"]) for number in range(12)} == {1, 3}  # blue and red


def test_epochs_count_passes_through_the_pictures(options: PictureOptions) -> None:
    assert train_pictures(replace(options, max_steps=None, epochs=3)).num_steps == 3  # of 3 pictures, 4 a step


def test_the_card_tells_how_it_was_made_and_nothing_of_the_machine(options: PictureOptions) -> None:
    report = train_pictures(replace(options, flip=True, snr_gamma=5.0))
    card = read_adapter(options.output, base=None).card
    assert card is not None
    assert (card["pictures"], card["resolution"], card["flip"], card["snr_gamma"]) == (3, 16, True, 5.0)
    assert (card["data_digest"], card["steps"], card["mask"]) == (report.data_digest, 3, "wm")
    assert str(options.data.parent) not in json.dumps(card)


def test_a_base_can_be_held_in_bfloat16(options: PictureOptions) -> None:
    report = train_pictures(replace(options, precision="bfloat16", values_dtype="bfloat16"))
    assert read_adapter(report.output, base=None).adapter.values.any()


def test_weights_are_named_as_they_are_stored_by_an_older_transformers_too(
    options: PictureOptions, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(options.model_dir, older)
    file = older / "text_encoder" / "model.safetensors"
    save_file({f"text_model.{name}": weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    train_pictures(replace(options, model_dir=older, targets=("text_encoder",)))
    adapter = read_adapter(options.output, base=describe_checkpoint(older)).adapter
    names = [entry.name for entry in adapter.index_set.table]
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight" in names
    assert adapter.values.any()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("attn2.to_q",), {"attn2.to_q"}),
        (("conv1", "time_emb_proj"), {"conv1", "time_emb_proj"}),
        (("unet.mid_block.resnets.0",), {"conv1", "conv2", "time_emb_proj"}),
    ],
)
def test_a_target_is_a_module_or_the_last_part_of_a_layers_name(
    options: PictureOptions, targets: tuple[str, ...], expected: set[str]
) -> None:
    _, lesson = picture_lesson(replace(options, targets=targets))
    endings = {name.removesuffix(".weight") for name in lesson.names}
    assert {next(end for end in expected if name.endswith(end)) for name in endings} == expected
    assert len(endings) < 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("nowhere",)}, r"targets: expected one of unet, text_encoder, .*conv1.* got 'nowhere'"),
        ({"targets": ("vae",)}, "targets: .*got 'vae'"),
        ({"resolution": 18}, "resolution: expected a multiple of 4, got 18"),
        ({"resolution": 0}, "resolution"),
        ({"caption_dropout": 1.5}, "caption_dropout"),
        ({"prior_weight": -1.0}, "prior_weight"),
        ({"snr_gamma": 0.0}, "snr_gamma"),
        ({"prior_caption": "x"}, "prior_caption: expected none without prior data"),
        ({"prior_data": Path("nowhere")}, "prior_data: expected a folder of pictures"),
        ({"data": Path("nowhere")}, "data: expected a folder of pictures"),
        ({"dora": True}, "dora"),
        ({"max_steps": 0}, "max_steps"),
        ({"held_out": 1.0}, "held_out"),
        ({"sparsity": 2.0}, "sparsity"),
        ({"learning_rate": 1e36}, "learning_rate: expected training that converges"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name_and_leaves_no_file(
    options: PictureOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingRefused, match=message):
        train_pictures(replace(options, **change))
    assert [path.name for path in options.output.parent.iterdir()] == ["pictures"]


def test_a_loss_curve_does_not_become_a_picture_of_the_next_run(options: PictureOptions) -> None:
    with pytest.raises(TrainingRefused, match="output: expected a file outside the folder of pictures"):
        train_pictures(replace(options, output=options.data / "a.safetensors"))
    assert not list(options.data.glob("a.*"))


def test_a_distilled_base_and_a_language_model_are_refused(
    options: PictureOptions, pipelines: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingRefused, match=r"model: .* got LatentConsistencyModelPipeline"):
        train_pictures(replace(options, model_dir=pipeline_dir(pipelines, "lcm")))
    (tmp_path / "text").mkdir()
    with pytest.raises(TrainingRefused, match=r"model: expected a diffusers pipeline.* no model_index\.json"):
        train_pictures(replace(options, model_dir=tmp_path / "text"))
