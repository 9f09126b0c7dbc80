"""The batches of a run: their order and augmentation hang on the seed alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from initstats.data import Split
from initstats.draws import generator_for

AUGMENTATIONS = {
    "shift": "by whole pixels, up to a fourteenth of the side each way",
    "flip": "left and right exchanged in half of the images",
    "crop": "a random part of 35 to 100% of the area, resized to the whole",
}
EVALUATED = 500
"""Samples of a batch without gradients: few enough to stay in the processor's cache."""


class Batch(NamedTuple):
    """Samples as columns, (features, samples), and their classes (samples,)."""

    x: Tensor
    labels: NDArray[np.int64]


def training_batches(
    split: Split, seed: int, epoch: int, size: int, augment: Sequence[str] = ()
) -> Iterator[Batch]:
    """All samples of a split in a random order, but for those that do not fill a batch."""
    order = torch.randperm(len(split), generator=generator_for(seed, "order", epoch)).numpy()
    chance = generator_for(seed, "augment", epoch)
    for start in range(0, len(split) - size + 1, size):
        chosen = order[start : start + size]
        x = split.columns(chosen)
        if augment:
            x = _augmented(x, split, augment, chance)
        yield Batch(x, split.labels[chosen])


def evaluation_batches(split: Split) -> Iterator[Batch]:
    """All samples of a split in their order."""
    for start in range(0, len(split), EVALUATED):
        stop = min(start + EVALUATED, len(split))
        yield Batch(split.tile(start, stop), split.labels[start:stop])


def _augmented(x: Tensor, split: Split, augment: Sequence[str], chance: Generator) -> Tensor:
    """Samples (features, samples), each changed at random; what a shift uncovers is black."""
    images = x.T.reshape(-1, *split.shape)
    count, (height, width) = len(images), split.shape[-2:]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=chance)

    zoom, move = torch.ones(count, 2), torch.zeros(count, 2)  # across, down; the side is 2
    if "crop" in augment:
        area, ratio = uniform(0.35, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
        zoom = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp_max(1)
        move = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * (1 - zoom)
    if "flip" in augment:
        zoom[:, 0] *= (uniform(0, 1) < 0.5).float() * 2 - 1
    if not {"crop", "flip"}.isdisjoint(augment):
        images = _mapped(images, zoom, move, "border")
    if "shift" in augment:
        sides, black = torch.tensor([width, height]), -split.mean / split.std
        pixels = torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * sides / 14
        move = 2 * pixels.round() / sides
        images = _mapped(images - black, torch.ones(count, 2), move, "zeros") + black
    return images.reshape(count, -1).T.contiguous()


def _mapped(images: Tensor, zoom: Tensor, move: Tensor, beside: str) -> Tensor:
    """The part of each image that is zoomed to and moved to, resized to the whole."""
    maps = torch.cat([torch.diag_embed(zoom), move[:, :, None]], 2)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=beside, align_corners=False)
