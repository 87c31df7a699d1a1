"""The parts of the emoji model, Stable Diffusion in miniature, and the loss they are trained and measured with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from train_autoencoder import as_model_input
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

STYLE = "twemoji"
WIDTH = 192  # of the text encoder
PROMPT_TOKENS = 16
VOCABULARY_SIZE = 3000
MIN_SNR_GAMMA = 5.0
START, END = "<|startoftext|>", "<|endoftext|>"


@torch.no_grad()
def encoded(work: Path, split: str, vae: AutoencoderKL) -> tuple[Tensor, list[str]]:
    """Latents (n, 16, 8, 8) of variance one, and captions."""
    with np.load(work / f"{STYLE}.npz") as data:
        chosen = data["splits"] == split
        images = torch.from_numpy(data["images"][chosen]).permute(0, 3, 1, 2)
        captions: list[str] = data["captions"][chosen].tolist()
    latents = torch.cat([vae.encode(as_model_input(part)).latent_dist.mean for part in torch.split(images, 256)])
    return latents * vae.config.scaling_factor, captions


def fresh_tokenizer(folder: Path, captions: list[str]) -> CLIPTokenizer:
    """Byte-level pairs in CLIP's form, learned from the captions, whose words become single tokens."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    pieces += [piece for piece in sorted(learned["vocab"], key=learned["vocab"].get) if piece not in set(pieces)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, START, END])}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def fresh_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def fresh_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        layers_per_block=1,
        block_out_channels=(128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers takes it as the number of heads
        norm_num_groups=32,
    )


def fresh_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(n, PROMPT_TOKENS)"""
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids: Tensor = tokenizer(captions, max_length=PROMPT_TOKENS, **options).input_ids
    return ids


def diffusion_loss(
    model: nn.ModuleDict,
    scheduler: DDIMScheduler,
    latents: Tensor,
    prompts: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    noise = torch.randn(latents.shape, generator=generator)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        text = model["text_encoder"](prompts).last_hidden_state
        predicted = model["unet"](scheduler.add_noise(latents, noise, steps), steps, text).sample
    snr = compute_snr(scheduler, steps)
    weights = snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)
    errors = (predicted.float() - scheduler.get_velocity(latents, noise, steps)).square().mean(dim=(1, 2, 3))
    loss: Tensor = (weights * errors).mean()
    return loss


@torch.no_grad()
def fixed_loss(
    model: nn.ModuleDict, scheduler: DDIMScheduler, tokenizer: CLIPTokenizer, latents: Tensor, captions: list[str]
) -> float:
    """The loss with the same noise and steps at every call, over 768 draws."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(768) % len(latents)
    loss = diffusion_loss(model, scheduler, latents[rows], tokens(tokenizer, captions)[rows], generator)
    return round(loss.item(), 4)
