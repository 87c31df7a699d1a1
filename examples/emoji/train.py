"""Trains the emoji model, a Stable Diffusion pipeline in miniature, on the Twemoji drawings.

    python examples/emoji/train.py .cache/emoji --minutes 52

Needs `WORK/twemoji.npz` and `WORK/vae`. Text encoder and UNet learn together, from random weights, to predict the
velocity (Salimans & Ho 2022) with the weights of min-SNR (Hang et al. 2023). Every few minutes the averaged weights are
written as a pipeline in fp16 and `WORK/model`, a link, is pointed to it. `--resume` goes on from `WORK/state.pt`.
"""

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from model_parts import (
    diffusion_loss,
    encoded,
    fixed_loss,
    fresh_scheduler,
    fresh_text_encoder,
    fresh_tokenizer,
    fresh_unet,
    tokens,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.9985


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=52, help="in all; the learning rate falls with the time")
    parser.add_argument("--save-every", type=float, default=4, help="minutes")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    with sdpa_kernel(SDPBackend.MATH):  # at 16 tokens a third faster on a CPU than the fused attention's backward pass
        train(options)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    vae = AutoencoderKL.from_pretrained(options.work / "vae").eval()
    examples = {split: encoded(options.work, split, vae) for split in ("train", "held_out")}
    training = Training(options, examples)
    if options.resume:
        training.resume()
    latents, captions = examples["train"]
    ids, no_caption = tokens(training.tokenizer, captions), tokens(training.tokenizer, [""])
    print(
        f"{len(latents)} pictures, {len(training.tokenizer)} tokens, {training.num_parameters:,} parameters", flush=True
    )
    saved = training.minutes
    while training.minutes < options.minutes:
        rows = torch.randint(len(latents), (options.batch_size,))
        prompts = torch.where(torch.rand(options.batch_size, 1) < CAPTION_DROPOUT, no_caption, ids[rows])
        training.step(latents[rows], prompts)
        if training.minutes - saved >= options.save_every or training.minutes >= options.minutes:
            saved = training.minutes
            training.save()


class Training:
    """The model, its averaged weights, and how far it is."""

    def __init__(self, options: argparse.Namespace, examples: dict[str, tuple[Tensor, list[str]]]) -> None:
        self.options, self.examples = options, examples
        captions = [caption for _, captions in examples.values() for caption in captions]
        self.tokenizer = fresh_tokenizer(options.work / "tokenizer", captions)
        self.model = nn.ModuleDict({"unet": fresh_unet(), "text_encoder": fresh_text_encoder(self.tokenizer)})
        self.scheduler = fresh_scheduler()
        self.parameters = list(self.model.parameters())
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )
        self.ema = EMAModel(self.parameters, decay=EMA_DECAY, use_ema_warmup=True, power=0.75, foreach=True)
        self.num_steps, self.minutes, self.running_loss = 0, 0.0, 0.0
        self.seen = time.monotonic()

    def resume(self) -> None:
        state: dict[str, Any] = torch.load(self.options.work / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.num_steps, self.minutes = state["num_steps"], state["minutes"]
        torch.manual_seed(self.options.seed + self.num_steps)

    def step(self, latents: Tensor, prompts: Tensor) -> None:
        share = self.minutes / self.options.minutes
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * min(1, (self.num_steps + 1) / 200) * falling(share)
        loss = diffusion_loss(self.model, self.scheduler, latents, prompts)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)
        self.num_steps += 1
        now = time.monotonic()
        self.minutes, self.seen = self.minutes + (now - self.seen) / 60, now
        self.running_loss += loss.item() / 100
        if self.num_steps % 100 == 0:
            print(f"step {self.num_steps}  {self.minutes:.1f} min  loss {self.running_loss:.4f}", flush=True)
            self.running_loss = 0.0

    def save(self) -> None:
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        for split, part in self.examples.items():
            loss = fixed_loss(self.model, self.scheduler, self.tokenizer, *part)
            print(f"step {self.num_steps}  averaged weights, {split} loss {loss}", flush=True)
        save_pipeline(self.options.work, f"model-{self.num_steps:06}", self.model, self.tokenizer)
        self.ema.restore(self.parameters)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "num_steps": self.num_steps,
            "minutes": self.minutes,
        }
        torch.save(state, self.options.work / "state.new")
        (self.options.work / "state.new").replace(self.options.work / "state.pt")


def falling(share: float) -> float:
    """Constant for the first half of the time, then a cosine down to a hundredth."""
    return 1.0 if share < 0.5 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (2 * share - 1)))


def save_pipeline(work: Path, name: str, model: nn.ModuleDict, tokenizer: CLIPTokenizer) -> None:
    """Writes the pipeline in fp16 as `WORK/<name>` and points the link `WORK/model` to it."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=fresh_text_encoder(tokenizer),
        unet=fresh_unet(),
        tokenizer=tokenizer,
        scheduler=fresh_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.text_encoder.load_state_dict(model["text_encoder"].state_dict())
    pipeline.unet.load_state_dict(model["unet"].state_dict())
    pipeline.to(torch.float16).save_pretrained(work / name)
    (work / "model.new").unlink(missing_ok=True)
    (work / "model.new").symlink_to(name)
    (work / "model.new").replace(work / "model")
    for old in sorted(work.glob("model-*"))[:-2]:
        shutil.rmtree(old)


if __name__ == "__main__":
    main()
