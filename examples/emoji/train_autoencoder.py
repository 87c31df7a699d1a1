"""Trains the autoencoder of the emoji model: 64x64 pictures of all three styles to 8x8 latents of 16 channels and back.

    python examples/emoji/train_autoencoder.py .cache/emoji --minutes 9

Reads `WORK/<style>.npz`, of which the held-out pictures and the concept's are left out, and writes `WORK/vae`. With
`--decoder-only` the encoder, and so the latents, stay as they are in `WORK/vae`; the decoder goes on learning, from
latents with a little noise on them, as a denoiser hands them over.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

STYLES = "twemoji", "noto", "ink"
LATENT_CHANNELS = 16
KL_WEIGHT = 1e-6
LATENT_NOISE = 0.15  # standard deviations of a latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=9, help="how long to train; the learning rate falls with the time"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    train(options)


def train(options: argparse.Namespace) -> None:
    images = pictures(options.work, "train")
    vae = AutoencoderKL.from_pretrained(options.work / "vae") if options.decoder_only else fresh_autoencoder()
    vae = vae.train()
    learned = [vae.post_quant_conv, vae.decoder] if options.decoder_only else [vae]
    parameters = [parameter for module in learned for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    start, step, running = time.monotonic(), 0, 0.0
    while (spent := (time.monotonic() - start) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1, (step + 1) / 100) * (1 - spent) ** 0.7
        batch = images[torch.randint(len(images), (options.batch_size,))]
        batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch, batch.flip(3))
        x = as_model_input(batch)
        with torch.autocast("cpu", torch.bfloat16):
            loss = decoder_loss(vae, x) if options.decoder_only else autoencoder_loss(vae, x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, running = step + 1, 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}  {time.monotonic() - start:.0f} s  loss {running / (1 - 0.98**step):.4f}", flush=True)
    vae.eval()
    if not options.decoder_only:
        vae.register_to_config(**latent_scale(vae, images))
    vae.save_pretrained(options.work / "vae")
    for style in STYLES:
        print(
            f"PSNR of the held-out pictures, {style}: {psnr(vae, pictures(options.work, 'held_out', (style,))):.2f} dB"
        )


def pictures(work: Path, split: str, styles: tuple[str, ...] = STYLES) -> Tensor:
    """uint8 (n, 3, 64, 64)."""
    parts = []
    for style in styles:
        with np.load(work / f"{style}.npz") as data:
            parts.append(data["images"][data["splits"] == split])
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous()


def fresh_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
        layers_per_block=1,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def as_model_input(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def autoencoder_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    latents = vae.encode(x).latent_dist
    return reconstruction_loss(vae.decode(latents.sample()).sample, x) + KL_WEIGHT * latents.kl().mean()


def decoder_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean
    noise = LATENT_NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn_like(latents) / vae.config.scaling_factor
    return reconstruction_loss(vae.decode(latents + noise).sample, x)


def reconstruction_loss(decoded: Tensor, x: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of the differences of neighbours, which keeps edges sharp."""
    error = decoded.float() - x
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + functional.mse_loss(decoded.float(), x) + edges


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, images: Tensor) -> dict[str, float]:
    """The configuration that gives latents mean zero and variance one, over all positions and channels."""
    latents = torch.cat([vae.encode(as_model_input(part)).latent_dist.mean for part in images.split(256)])
    return {"scaling_factor": 1 / latents.std().item()}


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    x = as_model_input(images)
    decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * torch.log10(4 / functional.mse_loss(decoded, x)).item()


if __name__ == "__main__":
    main()
