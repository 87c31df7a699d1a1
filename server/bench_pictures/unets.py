"""Random U-Nets in the form of Stable Diffusion XL's, in bfloat16, made where they stay."""

from __future__ import annotations

from typing import Any

import torch

from server.bench_pictures.options import UnetName

WEIGHT_SCALE = 0.02
_FORM: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
CONFIGS: dict[UnetName, dict[str, Any]] = {
    "sdxl": {  # of stable-diffusion-xl-base-1.0: 2,567,463,684 parameters
        **_FORM,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "tiny": {
        **_FORM,
        "sample_size": 32,
        "block_out_channels": (8, 16, 16),
        "norm_num_groups": 4,
        "attention_head_dim": (1, 2, 2),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
}


def random_unet(name: UnetName, *, seed: int) -> Any:
    """In evaluation mode. Takes its own size in memory: it is never there in float32."""
    unet = empty_unet(name).bfloat16().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for parameter in unet.requires_grad_(False).parameters():
        parameter.uniform_(-WEIGHT_SCALE, WEIGHT_SCALE, generator=generator)
    return unet.eval()


def empty_unet(name: UnetName) -> Any:
    """Without memory behind its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**CONFIGS[name])


def random_call(name: UnetName, *, seed: int) -> dict[str, Any]:
    """Arguments of one forward over an image of a quarter of the usual side, with and without guidance: two rows."""
    config = CONFIGS[name]
    side = config["sample_size"] // 4
    time_width = config["addition_time_embed_dim"]
    pooled = config["projection_class_embeddings_input_dim"] - 6 * time_width
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    return {
        "sample": noise(2, config["in_channels"], side, side),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": noise(2, 77, config["cross_attention_dim"]),
        "added_cond_kwargs": {"text_embeds": noise(2, pooled), "time_ids": torch.full((2, 6), float(8 * side))},
    }
