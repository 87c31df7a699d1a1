"""Trains the autoencoder of the emoji model: 64x64 pictures of all three styles to 8x8 latents of 16 channels and back.

    python examples/emoji/train_autoencoder.py .cache/emoji --minutes 9

Reads `WORK/<style>.npz`, of which the held-out pictures and the concept's are left out, and writes `WORK/vae`. The
decoder learns from latents with a little noise on them, as a denoiser hands them over. `--resume` goes on from
`WORK/vae`, with a fresh optimizer.
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
LATENT_NOISE = 0.15  # at most, in standard deviations of a latent
OPPONENT = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])  # red against green, yellow against blue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=9, help="how long to train; the learning rate falls with the time"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    train(options)


def train(options: argparse.Namespace) -> None:
    images = pictures(options.work, "train")
    vae = AutoencoderKL.from_pretrained(options.work / "vae") if options.resume else fresh_autoencoder()
    vae = vae.train()
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    start, step, running = time.monotonic(), 0, 0.0
    while (spent := (time.monotonic() - start) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1, (step + 1) / 100) * (1 - spent) ** 0.7
        x = as_model_input(varied(images[torch.randint(len(images), (options.batch_size,))]))
        with torch.autocast("cpu", torch.bfloat16):
            loss = autoencoder_loss(vae, x)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, running = step + 1, 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}  {time.monotonic() - start:.0f} s  loss {running / (1 - 0.98**step):.4f}", flush=True)
    vae.eval()
    vae.register_to_config(scaling_factor=latent_scale(vae, images))
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


def varied(images: Tensor) -> Tensor:
    """Half of them mirrored, and half with red, green and blue in another order: emoji are yellow, red and blue, and
    without it green and purple come out grey."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))
    orders = torch.where(torch.rand(len(images), 1) < 0.5, torch.arange(3), torch.rand(len(images), 3).argsort(1))
    return images.gather(1, orders[:, :, None, None].expand_as(images))


def autoencoder_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    coded = vae.encode(x).latent_dist
    latents = coded.sample()
    level = LATENT_NOISE * latents.detach().std() * torch.rand(len(x), 1, 1, 1)
    decoded = vae.decode(latents + level * torch.randn_like(latents)).sample
    divergence: Tensor = coded.kl().mean()
    return reconstruction_loss(decoded.float(), x) + KL_WEIGHT * divergence


def reconstruction_loss(decoded: Tensor, x: Tensor) -> Tensor:
    """Absolute and squared error; the absolute error of differences of neighbours, which keeps edges sharp; and that of
    the two colour axes, which are small beside light and dark and would be learned last."""
    error = decoded - x
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    colours = torch.einsum("oc,nchw->nohw", OPPONENT, error).abs().mean()
    loss: Tensor = error.abs().mean() + error.square().mean() + edges + colours
    return loss


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, images: Tensor) -> float:
    """What gives latents variance one, over all positions and channels."""
    latents = torch.cat([vae.encode(as_model_input(part)).latent_dist.mean for part in torch.split(images, 256)])
    return 1 / latents.std().item()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    x = as_model_input(images)
    decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return 10 * torch.log10(4 / functional.mse_loss(decoded, x)).item()


if __name__ == "__main__":
    main()
