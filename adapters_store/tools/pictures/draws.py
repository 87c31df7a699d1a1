"""Everything that is drawn at random when a denoiser trains: picture, noise, timestep, mirror, dropped caption.

A draw is known by its number and the seed alone. So what an adapter sees does not depend on how it trains, on where
training was interrupted or on the batch size, and the model's loss is a plain function of its inputs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

NO_CAPTION = 0  # the number of the empty caption


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedPictures:
    """``latents`` (pictures, views, channels, height, width), the views being the picture and perhaps its mirror image;
    ``captions`` (pictures,), numbers in the model's list of captions."""

    latents: Tensor
    captions: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: Tensor) -> EncodedPictures:
        return EncodedPictures(latents=self.latents[rows], captions=self.captions[rows])


class Draws(Dataset[dict[str, Tensor]]):
    """``num_draws`` examples of ``pictures``, each as often as any other; where there are ``prior`` ones, every second
    is of those, with the weight ``prior_weight``."""

    def __init__(
        self,
        pictures: EncodedPictures,
        num_draws: int,
        *,
        seed: int,
        caption_dropout: float = 0.0,
        prior: EncodedPictures | None = None,
        prior_weight: float = 1.0,
    ) -> None:
        self.sources = [(pictures, 1.0)] if prior is None else [(pictures, 1.0), (prior, prior_weight)]
        self.num_draws = num_draws
        self.seed = seed
        self.caption_dropout = caption_dropout

    def __len__(self) -> int:
        return self.num_draws

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """``latents`` and ``noise`` (channels, height, width); scalars ``fraction``, the timestep's rank in [0, 1),
        ``caption`` and ``weight``."""
        if not 0 <= number < self.num_draws:
            raise IndexError(number)
        generator = torch.Generator().manual_seed(_seed(self.seed, number))
        turn, which = divmod(number, len(self.sources))
        pictures, weight = self.sources[which]
        picture = turn % len(pictures)
        views = pictures.latents[picture]
        view, fraction, keeps_caption = torch.rand(3, generator=generator).unbind()
        return {
            "latents": views[int(view * len(views))],
            "noise": torch.randn(views.shape[1:], generator=generator),
            "fraction": fraction,
            "caption": pictures.captions[picture]
            if keeps_caption >= self.caption_dropout
            else torch.tensor(NO_CAPTION),
            "weight": torch.tensor(weight),
        }


def _seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8], "little")
