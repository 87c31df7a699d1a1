"""SHiRA files that diffusers and PEFT themselves wrote for a pipeline, read as uploads to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.base import BaseDescription, describe_checkpoint
from adapters_store.errors import AdapterRejected, BaseMismatch
from adapters_store.format import ParsedUpload, Positions, pack_positions, read_adapter, unpack_positions, write_adapter
from adapters_store.peft_format import DIFFUSERS_KEY, read_peft, read_single_file
from tests.adapters_store import adapter_files
from tests.server.runners.tiny_pipelines import Family, save_tiny_pipeline, tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

FILE = "pytorch_lora_weights.safetensors"
DENOISER_LAYERS = ["to_q", "to_v", "ff.net.2"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, BaseDescription]:
    folder = tmp_path_factory.mktemp("bases")
    families: tuple[Family, ...] = ("sd", "sdxl", "sd3", "flux")
    return {family: describe_checkpoint(save_tiny_pipeline(family, folder / family)) for family in families}


def random_adapter(model: nn.Module, targets: list[str]) -> None:
    """SHiRA under PEFT, its deltas as training leaves them: not zero."""
    torch.manual_seed(4)
    model.add_adapter(peft.ShiraConfig(r=1, target_modules=targets, init_weights=False))  # type: ignore[operator]


def deltas_of(model: nn.Module, component: str) -> dict[str, Tensor]:
    """What PEFT says it adds, by the canonical name of the weight."""
    return {
        f"{component}.{name}.weight": module.get_delta_weight("default").to_dense().detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def dense(adapter: Adapter) -> dict[str, Tensor]:
    """W − W0 of each weight."""
    found = {}
    for (entry, flat), start in zip(unpack_positions(adapter.index_set), adapter.index_set.entry_starts, strict=False):
        delta = torch.zeros(entry.numel)
        delta[flat] = adapter.values[start : start + entry.count].float()
        found[entry.name] = delta.view(entry.shape)
    return found


def assert_same(parsed: ParsedUpload, deltas: dict[str, Tensor]) -> None:
    """Bit for bit: both are the file's own fp32 values, each at its place."""
    found = dense(parsed.adapter)
    assert found.keys() == deltas.keys()
    assert deltas
    assert all(torch.equal(found[name], deltas[name]) for name in deltas)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_what_save_lora_adapter_writes_is_the_denoisers(
    bases: dict[Family, BaseDescription], tmp_path: Path, family: Family
) -> None:
    pipeline = tiny_pipeline(family)
    component = "unet" if "unet" in pipeline.components else "transformer"
    denoiser = pipeline.components[component]
    random_adapter(denoiser, DENOISER_LAYERS)
    denoiser.save_lora_adapter(tmp_path)
    assert_same(read_single_file(tmp_path / FILE, base=bases[family]), deltas_of(denoiser, component))


def test_the_fused_weights_are_those_that_peft_merges(bases: dict[Family, BaseDescription], tmp_path: Path) -> None:
    """In fp32 both round W0 + S once: equal bits, no tolerance."""
    pipeline = tiny_pipeline("sd")
    before = {f"unet.{name}": weight.clone() for name, weight in pipeline.unet.named_parameters()}
    random_adapter(pipeline.unet, DENOISER_LAYERS)
    pipeline.unet.save_lora_adapter(tmp_path)
    parsed = read_single_file(tmp_path / FILE, base=bases["sd"])
    for module in pipeline.unet.modules():
        if hasattr(module, "get_delta_weight"):
            module.merge()
    merged = {
        f"unet.{name.replace('.base_layer', '')}": weight
        for name, weight in pipeline.unet.named_parameters()
        if "shira_weight" not in name
    }
    deltas = dense(parsed.adapter)
    for name, weight in before.items():
        assert torch.equal(weight + deltas[name] if name in deltas else weight, merged[name]), name


def test_a_pipelines_file_names_the_components(bases: dict[Family, BaseDescription], tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sd")
    parts = {"unet": (pipeline.unet, DENOISER_LAYERS), "text_encoder": (pipeline.text_encoder, ["q_proj", "fc1"])}
    tensors: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    deltas: dict[str, Tensor] = {}
    for component, (model, targets) in parts.items():
        random_adapter(model, targets)
        tensors[component] = peft.utils.get_peft_model_state_dict(model)
        metadata[f"{component}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
        deltas |= deltas_of(model, component)
    type(pipeline).save_lora_weights(
        tmp_path, unet_lora_layers=tensors["unet"], text_encoder_lora_layers=tensors["text_encoder"], **metadata
    )
    assert_same(read_single_file(tmp_path / FILE, base=bases["sd"]), deltas)


def test_a_checkpoint_of_peft_for_the_whole_unet_is_the_denoisers(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    pipeline = tiny_pipeline("sd")
    adapted = peft.get_peft_model(
        pipeline.unet, peft.ShiraConfig(r=1, target_modules=DENOISER_LAYERS, init_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    parsed = read_peft(tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors", base=bases["sd"])
    assert_same(parsed, deltas_of(adapted.base_model.model, "unet"))


def test_a_text_encoders_adapter_is_its_own_where_only_one_has_the_layer(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    pipeline = tiny_pipeline("flux")  # CLIP, and a T5 whose names are others
    random_adapter(pipeline.text_encoder, ["q_proj"])
    write(tmp_path / FILE, peft.utils.get_peft_model_state_dict(pipeline.text_encoder))
    assert_same(read_single_file(tmp_path / FILE, base=bases["flux"]), deltas_of(pipeline.text_encoder, "text_encoder"))


@pytest.mark.parametrize("spelt", ["text_model.encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.q_proj"])
def test_the_module_that_newer_transformers_drop_may_be_named_or_not(
    bases: dict[Family, BaseDescription], tmp_path: Path, spelt: str
) -> None:
    write(tmp_path / FILE, layer(f"text_encoder.{spelt}"))
    [entry] = read_single_file(tmp_path / FILE, base=bases["sd"]).adapter.index_set.table
    assert entry.name == "text_encoder.encoder.layers.0.self_attn.q_proj.weight"


def test_a_layer_that_two_text_encoders_have_must_name_its_own(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    write(tmp_path / FILE, layer(name))
    with pytest.raises(AdapterRejected) as caught:
        read_single_file(tmp_path / FILE, base=bases["sdxl"])
    assert caught.value.check == "component"
    assert "text_encoder and text_encoder_2" in caught.value.got
    write(tmp_path / FILE, layer(f"text_encoder_2.{name}"))
    [entry] = read_single_file(tmp_path / FILE, base=bases["sdxl"]).adapter.index_set.table
    assert entry.name == f"text_encoder_2.{name}.weight"


def test_a_layer_under_two_names_is_refused(bases: dict[Family, BaseDescription], tmp_path: Path) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    write(tmp_path / FILE, layer(name) | layer(f"unet.{name}"))
    with pytest.raises(AdapterRejected, match="twice"):
        read_single_file(tmp_path / FILE, base=bases["sd"])


def test_the_vae_takes_no_adapter(bases: dict[Family, BaseDescription], tmp_path: Path) -> None:
    write(tmp_path / FILE, layer("vae.decoder.mid_block.attentions.0.to_q"))
    with pytest.raises(BaseMismatch, match=r"a weight of unet or text_encoder, got one of vae"):
        read_single_file(tmp_path / FILE, base=bases["sd"])


@pytest.mark.parametrize(
    ("config", "check"),
    [
        ({"unet.peft_type": "LORA"}, "peft_type"),
        ({"unet.peft_type": "SHIRA", "text_encoder.peft_type": "LORA"}, "peft_type"),
        ({"unet.r": 1}, "config"),
        ({"unet.peft_type": "SHIRA", "unet.modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"elsewhere.peft_type": "SHIRA"}, "config"),
    ],
)
def test_the_config_of_each_component_is_checked(
    bases: dict[Family, BaseDescription], tmp_path: Path, config: dict[str, Any], check: str
) -> None:
    write(tmp_path / FILE, layer("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"), config)
    with pytest.raises(AdapterRejected) as caught:
        read_single_file(tmp_path / FILE, base=bases["sd"])
    assert caught.value.check == check


def test_a_text_adapter_sent_to_a_picture_base_is_told_what_the_base_is(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    write(tmp_path / FILE, layer("base_model.model.model.layers.0.self_attn.q_proj"))
    with pytest.raises(BaseMismatch) as caught:
        read_single_file(tmp_path / FILE, base=bases["sd"])
    assert "model.layers.0.self_attn.q_proj.weight" in str(caught.value.tensor)
    assert "a weight of unet or text_encoder in a pipeline that draws pictures" in caught.value.expected

    write_adapter(adapter_files.sample_adapter(), tmp_path / "native.safetensors")
    with pytest.raises(BaseMismatch) as caught:
        read_single_file(tmp_path / "native.safetensors", base=bases["sd"])
    assert "a pipeline that draws pictures" in caught.value.expected
    assert "an adapter of a.weight" in caught.value.got


def test_a_picture_adapter_sent_to_a_text_base_is_told_what_the_base_is(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    text = adapter_files.description()
    write(tmp_path / FILE, layer("unet.mid_block.attentions.0.to_q"))
    with pytest.raises(BaseMismatch, match=r"unet\.mid_block.*a weight of the base, such as a\.weight.*unknown name"):
        read_single_file(tmp_path / FILE, base=text)
    write_adapter(of_shapes(bases["sd"]), tmp_path / "native.safetensors")
    with pytest.raises(BaseMismatch, match=r"such as a\.weight.*an adapter of text_encoder"):
        read_single_file(tmp_path / "native.safetensors", base=text)


def test_a_native_file_carries_convolutions_norms_biases_and_embeddings(
    bases: dict[Family, BaseDescription], tmp_path: Path
) -> None:
    adapter = of_shapes(bases["sd"])
    write_adapter(adapter, tmp_path / "native.safetensors")
    parsed = read_adapter(tmp_path / "native.safetensors", base=bases["sd"])
    assert parsed.adapter.version == adapter.version
    assert {entry.name: entry.shape for entry in parsed.adapter.index_set.table} == MIXED_SHAPES
    assert_same(parsed, dense(adapter))


def test_a_native_file_that_touches_the_vae_is_refused(bases: dict[Family, BaseDescription], tmp_path: Path) -> None:
    base = bases["sd"]
    write_adapter(of_shapes(base, {"vae.decoder.conv_in.weight": (16, 4, 3, 3)}), tmp_path / "native.safetensors")
    with pytest.raises(BaseMismatch, match="one of vae"):
        read_adapter(tmp_path / "native.safetensors", base=base)


MIXED_SHAPES: dict[str, tuple[int, ...]] = {
    "text_encoder.embeddings.token_embedding.weight": (518, 16),
    "unet.conv_in.bias": (8,),
    "unet.conv_in.weight": (8, 4, 3, 3),
    "unet.conv_norm_out.weight": (8,),
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight": (16, 16),
}


def of_shapes(base: BaseDescription, shapes: dict[str, tuple[int, ...]] = MIXED_SHAPES) -> Adapter:
    """The first, a middle and the last element of each weight."""
    positions = []
    for name, shape in shapes.items():
        last = torch.Size(shape).numel() - 1
        flat = torch.tensor([0, last // 2, last])
        positions.append(Positions(name=name, shape=shape, dtype="float32", flat=flat))
    values = torch.randn(3 * len(positions), generator=torch.Generator().manual_seed(1))
    return build_adapter(base=base.fingerprint, index_set=pack_positions(positions), values=values)


def layer(name: str) -> dict[str, Tensor]:
    indices = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    return {f"{name}.shira_indices": indices, f"{name}.shira_weight": torch.tensor([0.5, -0.25])}


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> None:
    save_file(tensors, path, {DIFFUSERS_KEY: json.dumps(config or {"peft_type": "SHIRA"})})
