"""A diffusers pipeline as one base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapters_store.base import describe_checkpoint
from adapters_store.base_files import PIPELINE_INDEX, is_pipeline, pipeline_files
from adapters_store.errors import BaseUnreadable

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


def weights(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"conv.weight": torch.randn(4, 2, 3, 3, generator=draw), "norm.bias": torch.randn(4, generator=draw).half()}


def save(folder: Path, files: dict[str, dict[str, Tensor]], index: dict[str, Any] = INDEX) -> Path:
    for part in ("scheduler", *(file.partition("/")[0] for file in files)):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / PIPELINE_INDEX).write_text(json.dumps(index))
    for name, tensors in files.items():
        safetensors.torch.save_file(tensors, folder / name)
    return folder


def save_index(file: Path, weight_map: dict[str, str]) -> None:
    file.write_text(json.dumps({"weight_map": weight_map}))


def test_weights_are_named_by_component_and_the_fingerprint_is_the_rule_of_one_model(tmp_path: Path) -> None:
    pipeline = save(tmp_path / "pipeline", {UNET: weights(1), TEXT: weights(2)})
    joined = {
        f"{part}.{name}": weight
        for part, seed in (("unet", 1), ("text_encoder", 2))
        for name, weight in weights(seed).items()
    }
    (tmp_path / "model").mkdir()
    safetensors.torch.save_file(joined, tmp_path / "model" / "model.safetensors")

    base, one_model = describe_checkpoint(pipeline), describe_checkpoint(tmp_path / "model")

    assert base.fingerprint == one_model.fingerprint
    assert base.weights == one_model.weights
    assert base.components == ("text_encoder", "unet")
    assert base.adaptable_components == ("unet", "text_encoder")
    assert base.weights["unet.conv.weight"].shape == (4, 2, 3, 3)
    assert (is_pipeline(pipeline), is_pipeline(tmp_path / "model")) == (True, False)


def test_one_changed_bit_of_any_component_is_another_base(tmp_path: Path) -> None:
    before = describe_checkpoint(save(tmp_path / "before", {UNET: weights(1), TEXT: weights(2)}))
    for number, component in enumerate((UNET, TEXT)):
        files = {UNET: weights(1), TEXT: weights(2)}
        files[component]["conv.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1
        assert describe_checkpoint(save(tmp_path / str(number), files)).fingerprint != before.fingerprint


def test_the_same_weights_in_another_component_are_another_base(tmp_path: Path) -> None:
    one = describe_checkpoint(save(tmp_path / "one", {UNET: weights(1), TEXT: weights(2)}))
    other = describe_checkpoint(save(tmp_path / "other", {UNET: weights(2), TEXT: weights(1)}))
    assert one.fingerprint != other.fingerprint


def test_only_the_denoiser_and_the_text_encoders_take_adapters(tmp_path: Path) -> None:
    vae = "vae/diffusion_pytorch_model.safetensors"
    index = {**INDEX, "vae": ["diffusers", "AutoencoderKL"]}
    base = describe_checkpoint(save(tmp_path, {UNET: weights(), TEXT: weights(), vae: weights()}, index))
    assert base.is_adaptable("unet.conv.weight")
    assert base.is_adaptable("text_encoder.norm.bias")
    assert not base.is_adaptable("vae.conv.weight")


def test_a_remembered_description_knows_the_components(tmp_path: Path) -> None:
    folder, cache = save(tmp_path / "p", {UNET: weights(1), TEXT: weights(2)}), tmp_path / "cache.json"
    described = describe_checkpoint(folder, cache_file=cache)
    cache.write_text(cache.read_text().replace(described.fingerprint, "sha256:" + "0" * 64))
    remembered = describe_checkpoint(folder, cache_file=cache)
    assert remembered.fingerprint == "sha256:" + "0" * 64  # nothing was hashed
    assert (remembered.weights, remembered.components) == (described.weights, described.components)


def test_a_variant_beside_the_plain_file_is_not_read(tmp_path: Path) -> None:
    plain = describe_checkpoint(save(tmp_path, {UNET: weights(1), TEXT: weights(2)}))
    both = save(tmp_path, {"unet/diffusion_pytorch_model.fp16.safetensors": weights(3)})
    assert describe_checkpoint(both).fingerprint == plain.fingerprint
    assert pipeline_files(both).variant is None


def test_a_variant_is_read_where_some_component_has_no_other_and_then_wherever_it_is(tmp_path: Path) -> None:
    variant = "text_encoder/model.fp16.safetensors"
    folder = save(
        tmp_path, {"unet/diffusion_pytorch_model.fp16.safetensors": weights(1), TEXT: weights(2), variant: weights(3)}
    )
    files = pipeline_files(folder)
    assert files.variant == "fp16"
    assert files.components["text_encoder"] == [folder / variant]


def test_components_with_different_variants_only_are_refused(tmp_path: Path) -> None:
    folder = save(
        tmp_path,
        {"unet/diffusion_pytorch_model.fp16.safetensors": weights(), "text_encoder/model.bf16.safetensors": weights()},
    )
    with pytest.raises(BaseUnreadable, match=r"one variant.*text_encoder: bf16; unet: fp16"):
        describe_checkpoint(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_found_through_their_index(tmp_path: Path, variant: str | None) -> None:
    tensors = weights(1)
    whole = describe_checkpoint(save(tmp_path / "whole", {UNET: tensors, TEXT: weights(2)}))
    dotted = f".{variant}" if variant else ""
    shards = [f"diffusion_pytorch_model{dotted}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    folder = save(
        tmp_path / "split",
        {TEXT: weights(2)}
        | {f"unet/{shard}": {name: tensors[name]} for shard, name in zip(shards, tensors, strict=True)},
    )
    index = folder / "unet" / f"diffusion_pytorch_model.safetensors.index{dotted}.json"
    save_index(index, dict(zip(tensors, shards, strict=True)))
    assert describe_checkpoint(folder).fingerprint == whole.fingerprint
    assert pipeline_files(folder).variant == variant


def test_a_component_stored_only_as_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = save(tmp_path, {TEXT: weights()})
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(
        BaseUnreadable, match=r"unet: expected diffusion_pytorch_model\.safetensors.*\.bin; .*save_pretrained"
    ):
        describe_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"unet": ["diffusers"]}, r"expected \[library, class\]"),
        ({"unet": [1, 2]}, r"expected \[library, class\]"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, r"expected \[library, class\]"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "no folder"),
        ([], "JSON object"),
    ],
)
def test_an_index_that_cannot_be_followed_is_refused(tmp_path: Path, index: Any, told: str) -> None:
    folder = save(tmp_path, {UNET: weights()}, index)
    with pytest.raises(BaseUnreadable, match=told):
        describe_checkpoint(folder)


def test_two_files_that_claim_to_be_the_weights_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, {UNET: weights(), TEXT: weights()})
    save_index(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json", {"conv.weight": Path(UNET).name})
    with pytest.raises(BaseUnreadable, match="both claim"):
        describe_checkpoint(folder)
