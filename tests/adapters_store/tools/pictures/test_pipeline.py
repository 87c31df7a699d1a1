from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from adapters_store.errors import TrainingRefused
from adapters_store.tools.pictures.folder import read_folder
from adapters_store.tools.pictures.pipeline import default_resolution, encode_pictures, load_pipeline
from tests.adapters_store.tools.pictures.conftest import pipeline_dir
from tests.server.runners.tiny_pipelines import Family, tiny_pipeline


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_latents_are_those_that_the_pipeline_would_decode(family: Family, data: Path) -> None:
    pipeline = tiny_pipeline(family)
    pictures = read_folder(data, caption=None)
    latents = encode_pictures(pipeline, pictures, resolution=16, has_mirrors=False, batch_size=2)
    config = pipeline.vae.config
    decodable = latents[:, 0] / config.scaling_factor + (config.shift_factor or 0.0)
    pixels = pipeline.image_processor.preprocess([picture.load(16) for picture in pictures])
    torch.testing.assert_close(decodable, pipeline.vae.encode(pixels).latent_dist.mean)


def test_the_second_view_is_the_mirror_image(data: Path, tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sd")
    both = encode_pictures(pipeline, read_folder(data, caption=None), resolution=16, has_mirrors=True, batch_size=4)
    for path in data.glob("*.png"):
        with Image.open(path) as picture:
            ImageOps.mirror(picture).save(path)
    mirrored = encode_pictures(
        pipeline, read_folder(data, caption=None), resolution=16, has_mirrors=False, batch_size=4
    )
    assert both.shape == (3, 2, 4, 8, 8)
    torch.testing.assert_close(both[:, 1:], mirrored)
    assert not torch.allclose(both[:, 0], both[:, 1])


def test_pictures_have_the_size_that_the_base_draws() -> None:
    assert default_resolution(tiny_pipeline("sd"), "unet") == 64
    assert default_resolution(tiny_pipeline("sd3"), "transformer") == 64
    oblong = tiny_pipeline("sd")
    oblong.unet.register_to_config(sample_size=[8, 16])
    with pytest.raises(TrainingRefused, match="resolution: expected to be given"):
        default_resolution(oblong, "unet")


def test_the_vae_is_loaded_in_fp32_whatever_the_rest_is(pipelines: Path) -> None:
    pipeline = load_pipeline(pipeline_dir(pipelines, "sd"), dtype=torch.bfloat16, device="cpu")
    assert (pipeline.vae.dtype, pipeline.unet.dtype, pipeline.text_encoder.dtype) == (
        torch.float32,
        torch.bfloat16,
        torch.bfloat16,
    )


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(TrainingRefused, match="model: expected a text-to-image pipeline of diffusers"):
        load_pipeline(tmp_path, dtype=torch.float32, device="cpu")
