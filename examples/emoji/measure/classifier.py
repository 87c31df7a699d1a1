"""A small convolutional network that tells style and group of a picture, and several of them that judge together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from examples.emoji.measure.pictures import CONCEPT, GROUPS, NEITHER, STYLES

STYLE_ANSWERS = (*STYLES, NEITHER)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Probabilities: ``styles`` (n, STYLE_ANSWERS), ``groups`` (n, GROUPS)."""

    styles: Tensor
    groups: Tensor

    def is_style(self, style: str) -> Tensor:
        return self.styles.argmax(1) == STYLE_ANSWERS.index(style)

    def is_group(self, group: str) -> Tensor:
        return self.groups.argmax(1) == GROUPS.index(group)

    @property
    def is_concept(self) -> Tensor:
        return self.is_group(CONCEPT)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        self.body = nn.Sequential(*(_stage(*pair) for pair in pairwise(widths)))
        self.dropout = nn.Dropout(0.3)
        self.styles = nn.Linear(2 * widths[-1], len(STYLE_ANSWERS))
        self.groups = nn.Linear(2 * widths[-1], len(GROUPS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, 3, height, width) in −1 … 1 → logits of styles and groups."""
        features = self.body(x)
        pooled = self.dropout(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
        return self.styles(pooled), self.groups(pooled)


class Classifier:
    """Several networks, whose probabilities are averaged."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = [network.eval() for network in networks]

    @torch.inference_mode()
    def judge(self, images: Tensor) -> Judged:
        """images uint8 (n, 3, height, width)"""
        sums: list[Any] = [0, 0]
        for network in self.networks:
            parts = [network(as_input(part)) for part in torch.split(images, 256)]
            for head, logits in enumerate(zip(*parts, strict=True)):
                sums[head] = sums[head] + torch.cat(logits).softmax(1) / len(self.networks)
        return Judged(styles=sums[0], groups=sums[1])

    def state(self) -> list[dict[str, Tensor]]:
        return [network.state_dict() for network in self.networks]

    @classmethod
    def of(cls, state: Sequence[dict[str, Tensor]]) -> Classifier:
        networks = [Network() for _ in state]
        for network, weights in zip(networks, state, strict=True):
            network.load_state_dict(weights)
        return cls(networks)


def as_input(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _stage(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(),
        nn.Conv2d(width_out, width_out, 3, padding=1, groups=width_out, bias=False),
        nn.Conv2d(width_out, width_out, 1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(),
    )
