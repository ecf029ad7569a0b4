"""The images of the recipe of ``disc-vae``, and its encoder for limited angles."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from genreg.amortise import fit_encoder
from genreg.datasets import LimitedAngleDiscs, discs_with_holes
from genreg.networks import Autoencoder, GridConfig
from genreg.networks._grid import normalise

__all__ = ["ARCHITECTURE", "encode_limited_angles", "held_out", "training_images"]

ARCHITECTURE = GridConfig(image_shape=(64, 64), latent_dim=512, encoder=(16, 48, 128), decoder=(16, 48, 96))
_IMAGES, _HELD_OUT = 40_000, 1000
_ENCODER_STEPS = 4000


class QuarterTurns:
    """A sampler that draws from a set of images and turns and mirrors each batch at random.

    Parameters
    ----------
    images : Tensor
        Square images, ``(N, n, n)``.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, rows, columns)``."""
        random = torch.Generator().manual_seed(seed)
        turns = int(torch.randint(4, (), generator=random))
        x = self.images[torch.randint(len(self.images), (n,), generator=random)]
        x = torch.rot90(x, turns, (1, 2))
        return (x.flip(2) if torch.randint(2, (), generator=random) else x).contiguous()


@functools.cache
def _fine() -> Tensor:
    """All images, 128 x 128, uint8: some four minutes and 0.7 GB."""
    parts = []
    for first in range(0, _IMAGES, 2000):
        x = discs_with_holes(2000, seed=2, size=128, jitter=0.2, first=first)
        parts.append((x * 255).round().to(torch.uint8))
    return torch.cat(parts)


def _coarse(images: Tensor) -> Tensor:
    pool = torch.nn.functional.avg_pool2d
    return torch.cat([pool(x.float()[:, None] / 255, 2)[:, 0] for x in images.split(2000)])


def training_images() -> QuarterTurns:
    """Sampler of the 39,000 training images, 64 x 64."""
    return QuarterTurns(_coarse(_fine()[:-_HELD_OUT]))


def held_out(part: int) -> Tensor:
    """First or second 500 of the 1,000 images held out, 64 x 64."""
    return _coarse(_fine()[-_HELD_OUT:]).chunk(2)[part]


def encode_limited_angles(model: Autoencoder, quick: bool, progress: bool) -> dict[str, Any]:
    """Train the encoder on rough reconstructions from 30 to 90 degrees; the entries of the card."""
    normalise(model, training_images()(2000, seed=0))
    pairs = LimitedAngleDiscs(_fine()[:-_HELD_OUT])
    steps = 20 if quick else _ENCODER_STEPS
    settings = fit_encoder(model, pairs, steps=steps, lr=1.5e-3, progress=progress)
    return {"encoder": {"data": "rough reconstructions, genreg.datasets.LimitedAngleDiscs", **settings}}
