"""PEFT's merged pipeline is the oracle: a SHiRA checkpoint, fused here, gives the same weights and the same image.

In fp32 both compute W0 + S and round once: equal bits, no tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from adapters_store.adapter import Adapter, build_adapter
from adapters_store.blend import BASE, Blend, BlendMember
from adapters_store.format import Positions, pack_positions
from adapters_store.kernels import get_kernels
from adapters_store.peft_format import read_single_file
from server.core.metrics import Metrics
from server.execution.fused import FusedExecution
from server.runners.pipeline_loading import LoadedPipeline, load_pipeline
from tests.server.execution.world import Shelf
from tests.server.runners.tiny_pipelines import SIZE, Family, save_tiny_pipeline, tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

TARGETS = ["to_q", "to_k", "to_v", "ff.net.2"]


def draw(pipeline: Any) -> Tensor:
    """(1, 3, SIZE, SIZE)"""
    generator = torch.Generator().manual_seed(3)
    image: Tensor = pipeline(
        "a dog", num_inference_steps=3, height=SIZE, width=SIZE, output_type="pt", generator=generator
    ).images
    return image


def merged_by_peft(family: Family, adapter_dir: Path) -> Any:
    """Saves random deltas with diffusers, then the pipeline that PEFT merges them into."""
    pipeline = tiny_pipeline(family)
    denoiser = pipeline.components["unet" if "unet" in pipeline.components else "transformer"]
    torch.manual_seed(6)
    denoiser.add_adapter(peft.ShiraConfig(r=2, target_modules=TARGETS, init_weights=False))
    denoiser.save_lora_adapter(adapter_dir)
    for name, module in list(denoiser.named_modules()):
        if isinstance(module, peft.tuners.shira.layer.ShiraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), child, module.get_base_layer())
    return pipeline


def execution_of(loaded: LoadedPipeline, *adapters: Adapter) -> FusedExecution:
    shelf = Shelf()
    for adapter in adapters:
        shelf.add(adapter)
    return FusedExecution(
        loaded.weights, get_kernels(loaded.weights.device), shelf, device_budget_bytes=1 << 26, metrics=Metrics()
    )


def blend_of(adapter: Adapter) -> Blend:
    return Blend(members=(BlendMember(version=adapter.version, scale=1.0),))


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "lcm"])
def test_the_same_checkpoint_gives_the_weights_and_the_image_of_pefts_merge(family: Family, tmp_path: Path) -> None:
    merged = merged_by_peft(family, tmp_path / "adapter")
    loaded = load_pipeline(save_tiny_pipeline(family, tmp_path / "base"))
    before = draw(loaded.pipeline)
    file = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    adapter = read_single_file(file, base=loaded.weights.description).adapter
    execution = execution_of(loaded, adapter)

    execution.activate(blend_of(adapter))

    expected = dict(merged.components[loaded.denoiser].named_parameters())
    denoiser: nn.Module = loaded.pipeline.components[loaded.denoiser]
    differing = [name for name, weight in denoiser.named_parameters() if not torch.equal(weight, expected[name])]
    assert differing == []
    with_adapter = draw(loaded.pipeline)
    assert torch.equal(with_adapter, draw(merged))
    assert not torch.equal(with_adapter, before)
    execution.activate(BASE)
    assert torch.equal(draw(loaded.pipeline), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_norms_biases_and_embeddings_are_fused_and_restored_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    loaded = load_pipeline(save_tiny_pipeline("sd", tmp_path, dtype=dtype))
    names = [
        "text_encoder.embeddings.token_embedding.weight",  # (518, 16)
        "unet.conv_in.bias",  # (8,)
        "unet.conv_in.weight",  # (8, 4, 3, 3)
        "unet.conv_norm_out.weight",  # (8,)
    ]
    table = loaded.weights.description.weights
    positions = []
    for name in names:
        entry = table[name]
        stored = entry.adaptable_dtype
        assert stored is not None
        last = torch.Size(entry.shape).numel() - 1
        positions.append(Positions(name=name, shape=entry.shape, dtype=stored, flat=torch.tensor([0, last // 2, last])))
    values = torch.randn(3 * len(names), generator=torch.Generator().manual_seed(1))
    index_set = pack_positions(positions)
    adapter = build_adapter(base=loaded.weights.fingerprint, index_set=index_set, values=values)
    execution = execution_of(loaded, adapter)
    weights = loaded.weights.resolve(index_set.table)
    before = [weight.clone() for weight in weights]

    execution.activate(blend_of(adapter))
    for number, (weight, original, position) in enumerate(zip(weights, before, positions, strict=True)):
        expected = original.clone()
        delta = values[3 * number : 3 * number + 3]
        expected.view(-1)[position.flat] = (original.view(-1)[position.flat].float() + delta).to(dtype)
        assert torch.equal(weight, expected), position.name

    execution.activate(BASE)
    assert all(torch.equal(weight, original) for weight, original in zip(weights, before, strict=True))
