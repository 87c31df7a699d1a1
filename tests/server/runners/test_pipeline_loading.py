from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters_store.adapter import build_table
from adapters_store.base_files import PIPELINE_INDEX
from server.core.errors import ModelNotLoadable
from server.execution.weights import BaseWeights
from server.runners.pipeline_loading import LoadedPipeline, check_kind, load_pipeline
from tests.server.runners.tiny_pipelines import FAMILIES, SIZE, Family, save_tiny_pipeline, tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
DTYPES = {"b": torch.bfloat16, "h": torch.float16, "f": torch.float32}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {family: save_tiny_pipeline(family, folder / family) for family in FAMILIES}


@pytest.fixture
def sd(saved: dict[Family, Path], tmp_path: Path) -> Path:
    """One to spoil."""
    return Path(shutil.copytree(saved["sd"], tmp_path / "sd"))


def draw(pipeline: Any, *, height: int = SIZE, width: int = SIZE) -> Tensor:
    """(1, 3, height, width)"""
    image: Tensor = pipeline(
        "a cat",
        num_inference_steps=2,
        height=height,
        width=width,
        output_type="pt",
        generator=torch.Generator().manual_seed(1),
    ).images
    return image


def modules_of(pipeline: Any) -> dict[str, Any]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def tensor(weights: BaseWeights, name: str) -> Tensor:
    weight = weights.description.weights[name]
    [found] = weights.resolve(build_table([(name, weight.shape, "float32", 1)]))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_draws_what_the_pipeline_drew(saved: dict[Family, Path], family: Family) -> None:
    loaded = load_pipeline(saved[family])
    assert torch.equal(draw(loaded.pipeline), draw(tiny_pipeline(family)))
    assert loaded.denoiser == ("transformer" if family in ("sd3", "flux") else "unet")
    assert loaded.name == family


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_every_component_is_the_pipelines_own_and_has_its_stored_name(
    saved: dict[Family, Path], family: Family
) -> None:
    loaded = load_pipeline(saved[family])
    modules = modules_of(loaded.pipeline)
    assert loaded.weights.description.components == tuple(sorted(modules))
    for component, module in modules.items():
        assert not module.training
        for name, parameter in module.named_parameters():
            assert tensor(loaded.weights, f"{component}.{name}").data_ptr() == parameter.data_ptr()
            assert not parameter.requires_grad


@pytest.mark.parametrize(
    ("family", "size", "multiple", "num_steps"),
    [("sd", 64, 8, 50), ("sdxl", 64, 8, 50), ("sd3", 64, 8, 28), ("flux", 256, 8, 28), ("lcm", 64, 8, 4)],
)
def test_sizes_and_steps_are_the_familys_own(
    saved: dict[Family, Path], family: Family, size: int, multiple: int, num_steps: int
) -> None:
    loaded = load_pipeline(saved[family])
    assert (loaded.default_height, loaded.default_width, loaded.size_multiple) == (size, size, multiple)
    assert loaded.default_num_steps == num_steps


@pytest.mark.parametrize("family", FAMILIES)
def test_an_odd_multiple_of_the_size_multiple_can_be_drawn(saved: dict[Family, Path], family: Family) -> None:
    loaded = load_pipeline(saved[family])
    height, width = 3 * loaded.size_multiple, 5 * loaded.size_multiple
    assert draw(loaded.pipeline, height=height, width=width).shape == (1, 3, height, width)


@pytest.mark.parametrize(
    ("family", "multiple", "size"), [("sd", 8, 256), ("sdxl", 8, 256), ("sd3", 16, 256), ("flux", 16, 1024)]
)
def test_with_a_vae_as_deep_as_those_in_use_patches_count(
    tmp_path: Path, family: Family, multiple: int, size: int
) -> None:
    """8 pixels to a latent; two latents to a patch in sd3, and in a token of flux."""
    from diffusers import AutoencoderKL

    pipeline = tiny_pipeline(family)
    config = dict(pipeline.vae.config) | {
        "block_out_channels": (4, 4, 4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    pipeline.register_modules(vae=AutoencoderKL.from_config(config))
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert (loaded.size_multiple, loaded.default_height, loaded.default_width) == (multiple, size, size)
    height, width = 3 * multiple, 5 * multiple
    assert draw(loaded.pipeline, height=height, width=width).shape == (1, 3, height, width)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("stored", "of_vae"), [("bhf", "f"), ("hff", "f"), ("fbb", "f"), ("bfh", "b")])
def test_a_pipeline_that_is_stored_in_several_dtypes_draws_in_its_denoisers(
    tmp_path: Path, family: Family, stored: str, of_vae: str
) -> None:
    """Each component was loaded as stored, and every image failed: diffusers casts nothing between them."""
    pipeline = tiny_pipeline(family)
    for name, module in modules_of(pipeline).items():
        module.to(DTYPES[stored[{"unet": 0, "transformer": 0, "vae": 2}.get(name, 1)]])
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert {name: module.dtype for name, module in modules_of(loaded.pipeline).items()} == {
        name: DTYPES[of_vae if name == "vae" else stored[0]] for name in modules_of(pipeline)
    }
    assert draw(loaded.pipeline).isfinite().all()


def test_a_vae_in_fp32_decodes_all_its_bits_for_a_denoiser_in_fp16(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sdxl")
    as_stored = {name: weight.clone() for name, weight in pipeline.vae.named_parameters()}
    pipeline.unet.half()
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path).pipeline.vae
    assert all(torch.equal(weight, as_stored[name]) for name, weight in loaded.named_parameters())


def test_the_dtype_that_is_asked_for_is_every_components(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sd")
    pipeline.unet.to(torch.bfloat16)
    pipeline.save_pretrained(tmp_path)
    as_stored, wider = load_pipeline(tmp_path), load_pipeline(tmp_path, dtype="float32")
    assert {module.dtype for module in modules_of(wider.pipeline).values()} == {torch.float32}
    assert as_stored.weights.fingerprint == wider.weights.fingerprint


def test_half_precision_runs_on_a_cpu_and_is_told_to_be_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_tiny_pipeline("sd", tmp_path, dtype=torch.float16)
    with caplog.at_level(logging.WARNING):
        loaded = load_pipeline(path, device="cpu")
    assert "--dtype" in caplog.text
    assert draw(loaded.pipeline).isfinite().all()


def test_a_drawing_in_half_precision_moves_no_weight(tmp_path: Path) -> None:
    """SDXL's pipeline put its VAE into fp32 and back for each image: into other memory than what was audited."""
    loaded = load_pipeline(save_tiny_pipeline("sdxl", tmp_path, dtype=torch.float16))
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in parameters(loaded).items()}
    assert draw(loaded.pipeline).isfinite().all()
    for name, weight in parameters(loaded).items():
        address, value = before[name]
        assert weight.data_ptr() == address, name
        assert torch.equal(weight, value), name


def parameters(loaded: LoadedPipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": weight
        for part, module in modules_of(loaded.pipeline).items()
        for name, weight in module.named_parameters()
    }


def test_a_text_encoder_stored_by_older_transformers_keeps_its_stored_names(sd: Path) -> None:
    """They had one more module, ``text_model``; transformers 5 loads such files without it."""
    file = sd / "text_encoder" / "model.safetensors"
    save_file({f"text_model.{name}": weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    loaded = load_pipeline(sd)
    name = "encoder.layers.0.self_attn.q_proj.weight"
    in_memory = loaded.pipeline.text_encoder.get_parameter(name)
    assert tensor(loaded.weights, f"text_encoder.text_model.{name}").data_ptr() == in_memory.data_ptr()
    assert torch.equal(draw(loaded.pipeline), draw(tiny_pipeline("sd")))


def test_a_variant_is_loaded_where_it_is_all_there_is(sd: Path) -> None:
    plain = load_pipeline(sd)
    (sd / UNET).rename(sd / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    loaded = load_pipeline(sd)
    assert loaded.weights.fingerprint == plain.weights.fingerprint
    assert torch.equal(draw(loaded.pipeline), draw(plain.pipeline))


@pytest.mark.parametrize(
    ("file", "missing"),
    [
        (UNET, "conv_in.weight"),
        (VAE, "decoder.conv_in.weight"),
        ("text_encoder/model.safetensors", "encoder.layers.0.mlp.fc1.weight"),
    ],
)
def test_weights_that_are_not_stored_are_never_drawn_at_random(sd: Path, file: str, missing: str) -> None:
    """transformers drew a text encoder's: another image after each start, under one fingerprint."""
    weights = load_file(sd / file)
    del weights[missing]
    save_file(weights, sd / file, {"format": "pt"})
    with pytest.raises(ModelNotLoadable, match=re.escape(f"{file.partition('/')[0]}.{missing}: expected a stored")):
        load_pipeline(sd)


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight", None])
def test_of_tied_weights_one_is_to_be_stored(saved: dict[Family, Path], tmp_path: Path, name: str | None) -> None:
    shutil.copytree(saved["flux"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    tied = weights.pop("shared.weight")
    save_file(weights if name is None else {**weights, name: tied}, file, {"format": "pt"})
    if name is None:
        with pytest.raises(ModelNotLoadable, match=r"text_encoder_2\.shared\.weight"):
            load_pipeline(tmp_path)
    else:
        assert torch.equal(draw(load_pipeline(tmp_path).pipeline), draw(tiny_pipeline("flux")))


def test_a_vae_stored_by_older_diffusers_is_read(sd: Path) -> None:
    """Its attention had other names, which diffusers knows: every Stable Diffusion 1 is stored so."""
    weights = load_file(sd / VAE)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {name.replace(f".{new}.", f".{old}."): weight for name, weight in weights.items()}
    save_file(weights, sd / VAE, {"format": "pt"})
    assert torch.equal(draw(load_pipeline(sd).pipeline), draw(tiny_pipeline("sd")))


def test_fingerprints_are_remembered(sd: Path, tmp_path: Path) -> None:
    first = load_pipeline(sd, fingerprints_dir=tmp_path / "prints")
    [remembered] = (tmp_path / "prints").iterdir()
    assert first.weights.fingerprint in remembered.read_text()


MARKER = 'import pathlib; pathlib.Path(__file__).with_name("ran").touch()\nclass Mine: pass\n'


@pytest.mark.parametrize(
    ("change", "script", "told"),
    [
        ({"unet": ["mine", "Mine"]}, "unet/mine.py", "unet: expected a class of diffusers or transformers"),
        ({"unet": ["server.app", "App"]}, None, "unet: expected a class of diffusers or transformers"),
        ({"unet": ["os", "system"]}, None, "unet: expected a class of diffusers or transformers"),
        ({"_class_name": ["mine", "Mine"]}, "mine.py", "_class_name: expected the name"),
        ({}, "None.py", r"None\.py is code"),
        ({}, "unet/diffusers.py", r"unet/diffusers\.py is code"),
        ({"_class_name": "MinePipeline"}, None, "MinePipeline"),
        ({"_class_name": None}, None, "_class_name"),
    ],
)
def test_code_of_a_models_own_is_refused_and_never_run(
    sd: Path, change: dict[str, Any], script: str | None, told: str
) -> None:
    index = json.loads((sd / PIPELINE_INDEX).read_text())
    (sd / PIPELINE_INDEX).write_text(json.dumps(index | change))
    if script is not None:
        (sd / script).write_text(MARKER)
    with pytest.raises(ModelNotLoadable, match=told):
        load_pipeline(sd)
    assert not list(sd.rglob("ran"))


def test_a_config_that_names_code_is_refused(sd: Path) -> None:
    config = sd / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "mine.Mine"}}))
    with pytest.raises(ModelNotLoadable, match="auto_map"):
        load_pipeline(sd)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"_class_name": "StableDiffusionPipeline"}'])
def test_a_broken_index_is_refused(sd: Path, text: str) -> None:
    (sd / PIPELINE_INDEX).write_text(text)
    with pytest.raises(ModelNotLoadable, match=str(sd)):
        load_pipeline(sd)


def test_pickled_weights_are_refused_with_what_to_do(sd: Path) -> None:
    (sd / UNET).rename(sd / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelNotLoadable, match="save_pretrained"):
        load_pipeline(sd)


def test_a_pipeline_for_another_task_is_refused(saved: dict[Family, Path], sd: Path) -> None:
    index = json.loads((sd / PIPELINE_INDEX).read_text())
    (sd / PIPELINE_INDEX).write_text(json.dumps(index | {"_class_name": "StableDiffusionInpaintPipelineLegacy"}))
    with pytest.raises(ModelNotLoadable, match="text-to-image"):
        load_pipeline(sd)


def test_a_pipeline_that_changes_its_denoiser_for_one_image_is_refused(sd: Path) -> None:
    """Images that run between its steps would be drawn by the changed one."""
    index = json.loads((sd / PIPELINE_INDEX).read_text())
    (sd / PIPELINE_INDEX).write_text(json.dumps(index | {"_class_name": "StableDiffusionPAGPipeline"}))
    with pytest.raises(ModelNotLoadable, match="StableDiffusionPAGPipeline changes its denoiser"):
        load_pipeline(sd)


@pytest.mark.parametrize(
    ("class_name", "told"),
    [
        ("KandinskyCombinedPipeline", "pipelines within it"),
        ("KandinskyPipeline", "more than a prompt: image_embeds, negative_image_embeds"),
        ("FluxControlPipeline", "more than a prompt: an image"),
        ("StableDiffusionPipeline", "no tokenizer"),
    ],
)
def test_pipelines_that_cannot_be_drawn_step_by_step_from_a_prompt_are_refused(class_name: str, told: str) -> None:
    empty = type(class_name, (getattr(diffusers, class_name),), {"components": {}, "__init__": lambda _: None})
    with pytest.raises(ModelNotLoadable, match=told):
        check_kind(Path("a-folder"), empty())
