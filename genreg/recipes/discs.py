"""The images of the recipe of ``disc-vae``, and its encoder for limited angles."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genreg.datasets import LimitedAngleDiscs, discs_with_holes
from genreg.networks import Autoencoder, GridConfig
from genreg.training.amortised_encoder import fit_encoder

ARCHITECTURE = GridConfig(
    image_shape=(64, 64), latent_dim=512, encoder=(16, 48, 128), decoder=(16, 48, 96), encoder_blocks=3
)
_IMAGES = 39_000
_ENCODER_STEPS = 3500


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


def _images(first: int, n: int) -> Tensor:
    """Images of the recipe, 128 x 128, uint8."""
    x = discs_with_holes(n, seed=2, size=128, jitter=0.2, first=first)
    return (x * 255).round().to(torch.uint8)


@functools.cache
def _training() -> Tensor:
    """All training images: some four minutes and 0.6 GB."""
    return torch.cat([_images(first, 1000) for first in range(0, _IMAGES, 1000)])


def _coarse(images: Tensor) -> Tensor:
    pool = torch.nn.functional.avg_pool2d
    return torch.cat([pool(x.float()[:, None] / 255, 2)[:, 0] for x in images.split(2000)])


def training_images() -> QuarterTurns:
    """Sampler of the 39,000 training images, 64 x 64."""
    return QuarterTurns(_coarse(_training()))


def held_out(part: int) -> Tensor:
    """First or second 500 of the 1,000 images held out, 64 x 64."""
    return _coarse(_images(_IMAGES + 500 * part, 500))


def encode_limited_angles(
    model: Autoencoder, quick: bool, progress: bool, checkpoint: Path, resume: bool
) -> dict[str, Any]:
    """Train the encoder on rough reconstructions from 30 to 90 degrees; the entries of the card."""
    pairs = LimitedAngleDiscs(_training())
    steps = 20 if quick else _ENCODER_STEPS
    device = model.log_gamma.device.type
    with torch.autocast(device, torch.bfloat16, cache_enabled=False):  # see genreg.recipes.train
        settings = fit_encoder(
            model, pairs, steps=steps, lr=1.5e-3, checkpoint=checkpoint, resume=resume, progress=progress
        )
    return {"encoder": {"data": "rough reconstructions, genreg.datasets.LimitedAngleDiscs", **settings}}
