"""Trains the classifier on the real pictures, and tests it on emoji that it did not see.

What is drawn by the model has the blur of its autoencoder, so every real picture is also learned as the autoencoder
gives it back. Greyed pictures, pictures half way to ink and decoded rubbish are of the style NEITHER: an adapter that
merely takes the colours away has not drawn in ink.

An emoji is either learned or tested on, in all styles: each of ``num_folds`` networks leaves out a fold and is tested
on it, and together they judge what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from examples.emoji.measure.classifier import STYLE_ANSWERS, Classifier, Judged, Network, as_input
from examples.emoji.measure.pictures import CONCEPT, GROUPS, NEITHER, STYLES, Pictures

BATCH_SIZE, LEARNING_RATE = 64, 2e-3
COPIES = {"autoencoded": 0.0, "autoencoded with noise": 0.2}  # deviation of the noise, in those of a latent
NUM_RUBBISH, RUBBISH_NOISE = 300, 3.0
CONCEPT_SHARE = 0.06  # of a batch: there are ten of them among a thousand
GREY_SHARE, HALF_SHARE, RUBBISH_SHARE = 0.1, 0.12, 0.06
Autoencode = Callable[[Tensor, float], Tensor]  # uint8 pictures, deviation of the noise on latents → uint8 pictures


def train_classifier(
    pictures: Pictures, autoencode: Autoencode, *, num_folds: int, num_steps: int, seed: int = 0
) -> tuple[Classifier, dict[str, Any]]:
    """With its report: real and autoencoded pictures, each judged by the network that did not learn its emoji."""
    torch.manual_seed(seed)
    copied = {name: autoencode(pictures.images, noise) for name, noise in COPIES.items()}
    versions = {"real": pictures.images, **copied}
    rubbish = autoencode(pictures.images[torch.randperm(len(pictures))[:NUM_RUBBISH]], RUBBISH_NOISE)
    folds = _folds(pictures, num_folds, seed)
    networks, judged = [], []
    for fold in range(num_folds):
        torch.manual_seed(seed + fold)
        network = Network()
        left_out = folds == fold
        learned = (~left_out).nonzero().flatten()
        copies = torch.stack([images[learned] for images in versions.values()])
        _fit(network, pictures.take(learned), copies, rubbish, num_steps=num_steps)
        networks.append(network)
        alone = Classifier([network])
        judged.append({name: (left_out, alone.judge(images[left_out])) for name, images in versions.items()})
    report = {name: _report(pictures, [fold[name] for fold in judged]) for name in versions}
    return Classifier(networks), report


def _folds(pictures: Pictures, num_folds: int, seed: int) -> Tensor:
    """The fold of each picture, by its emoji; every fold has its share of the concept."""
    num_emoji = int(pictures.emoji.max()) + 1
    order = torch.randperm(num_emoji, generator=torch.Generator().manual_seed(seed))
    is_concept = torch.zeros(num_emoji, dtype=torch.bool)
    is_concept[pictures.emoji[pictures.groups == GROUPS.index(CONCEPT)]] = True
    ranked = torch.cat([order[is_concept[order]], order[~is_concept[order]]])
    fold_of = torch.empty_like(order)
    fold_of[ranked] = torch.arange(num_emoji) % num_folds
    return fold_of[pictures.emoji]


def _fit(network: Network, pictures: Pictures, versions: Tensor, rubbish: Tensor, *, num_steps: int) -> None:
    """``versions`` uint8 (copies, pictures, 3, height, width)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    is_concept = pictures.groups == GROUPS.index(CONCEPT)
    chances = torch.where(is_concept, CONCEPT_SHARE / is_concept.sum(), (1 - CONCEPT_SHARE) / (~is_concept).sum())
    inked = _counterparts(pictures, STYLES.index("ink"))
    network.train()
    for _ in range(num_steps):
        rows = torch.multinomial(chances, BATCH_SIZE, replacement=True)
        version = torch.randint(len(versions), (BATCH_SIZE,))
        x, in_ink = as_input(versions[version, rows]), as_input(versions[version, inked[rows]])
        nothing = as_input(rubbish[torch.randint(len(rubbish), (BATCH_SIZE,))])
        x, styles, groups = _spoiled(x, in_ink, nothing, pictures.styles[rows], pictures.groups[rows])
        of_styles, of_groups = network(_moved(x))
        loss = functional.cross_entropy(of_styles, styles)
        loss = loss + functional.cross_entropy(of_groups, groups, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _counterparts(pictures: Pictures, style: int) -> Tensor:
    """The row of the same emoji in ``style``, for each row."""
    row_of = torch.zeros(int(pictures.emoji.max()) + 1, dtype=torch.long)
    in_style = (pictures.styles == style).nonzero().flatten()
    row_of[pictures.emoji[in_style]] = in_style
    return row_of[pictures.emoji]


def _spoiled(
    x: Tensor, in_ink: Tensor, nothing: Tensor, styles: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Some of the pictures in colours made grey or half ink, and some of all made rubbish."""
    draw, is_coloured = torch.rand(len(x)), styles != STYLES.index("ink")
    is_grey, is_half = is_coloured & (draw < GREY_SHARE), is_coloured & (draw > 1 - HALF_SHARE)
    is_rubbish = (draw - 0.5).abs() < RUBBISH_SHARE / 2
    share = torch.empty(len(x), 1, 1, 1).uniform_(0.3, 0.7)
    for chosen, changed in (
        (is_grey, x.mean(1, keepdim=True)),
        (is_half, share * x + (1 - share) * in_ink),
        (is_rubbish, nothing),
    ):
        x = torch.where(chosen[:, None, None, None], changed, x)
    styles = torch.where(is_grey | is_half | is_rubbish, STYLE_ANSWERS.index(NEITHER), styles)
    return x, styles, torch.where(is_rubbish, GROUPS.index("other"), groups)


def _moved(x: Tensor) -> Tensor:
    """Mirrored half of the time, shifted and scaled a little, over white."""
    num = len(x)
    scale = torch.empty(num).uniform_(0.85, 1.2)
    mirror = torch.where(torch.rand(num) < 0.5, -1.0, 1.0)
    affine = torch.zeros(num, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = scale * mirror, scale
    affine[:, :, 2] = torch.empty(num, 2).uniform_(-0.12, 0.12)
    grid = functional.affine_grid(affine, list(x.shape), align_corners=False)
    return functional.grid_sample(x - 1, grid, align_corners=False) + 1


def _report(pictures: Pictures, judged: Sequence[tuple[Tensor, Judged]]) -> dict[str, Any]:
    """Accuracies and confusions over all folds; rows of a confusion are what is true."""
    rows = torch.cat([left_out.nonzero().flatten() for left_out, _ in judged])
    said_styles = torch.cat([answer.styles.argmax(1) for _, answer in judged])
    said_groups = torch.cat([answer.groups.argmax(1) for _, answer in judged])
    styles, groups = pictures.styles[rows], pictures.groups[rows]
    concept = GROUPS.index(CONCEPT)
    is_concept, says_concept = groups == concept, said_groups == concept
    return {
        "num_pictures": len(rows),
        "style_accuracy": _share(said_styles == styles),
        "style_accuracy_on_concept": _share((said_styles == styles)[is_concept]),
        "group_accuracy": _share(said_groups == groups),
        "concept_recall": _share(says_concept[is_concept]),
        "concept_recall_by_style": {
            name: _share(says_concept[is_concept & (styles == number)]) for number, name in enumerate(STYLES)
        },
        "concept_false_alarms": _share(says_concept[~is_concept]),
        "concept_precision": _share(is_concept[says_concept]),
        "style_confusion": _confusion(styles, said_styles, STYLES, STYLE_ANSWERS),
        "group_confusion": _confusion(groups, said_groups, GROUPS, GROUPS),
    }


def _share(hits: Tensor) -> float:
    return round(hits.float().mean().item(), 4)


def _confusion(true: Tensor, said: Tensor, names: Sequence[str], answers: Sequence[str]) -> dict[str, dict[str, int]]:
    return {
        name: {
            answer: int(((true == row) & (said == column)).sum())
            for column, answer in enumerate(answers)
            if ((true == row) & (said == column)).any()
        }
        for row, name in enumerate(names)
    }
