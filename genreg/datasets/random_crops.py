"""Random crops of images of several sizes, turned, mirrored and recoloured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import flag, integer, seeded_generator

_GAINS, _SHIFTS = (0.9, 1.1), (-0.05, 0.05)


class RandomCrops:
    """A sampler ``f(n, *, seed)`` of crops, from an image and a place drawn at random.

    Parameters
    ----------
    images : sequence of Tensor
        ``(rows, columns)`` each, no smaller than the crop; each is drawn as often as the others.
    crop : int
        Rows and columns of the crops.
    augment : bool
        Whether crops are turned by quarters and mirrored, and their intensities x become g x + b with g in [0.9, 1.1]
        and b in [-0.05, 0.05], all at random.

    Raises
    ------
    ValueError
        If there is no image, or one is smaller than the crop.
    """

    def __init__(self, images: Sequence[Tensor], crop: int, *, augment: bool = True) -> None:
        self.images, self.crop = tuple(images), integer(crop, "crop", minimum=1)
        self.augment = flag(augment, "augment")
        least = min((min(x.shape) for x in self.images), default=0)
        if least < self.crop:
            raise ValueError(f"images must have at least {crop} rows and columns, got {least}")

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, crop, crop)``."""
        random = seeded_generator(seed)
        crops = torch.stack([self._draw(random) for _ in range(n)])
        if not self.augment:
            return crops
        gain, shift = (
            low + (high - low) * torch.rand((n, 1, 1), generator=random) for low, high in (_GAINS, _SHIFTS)
        )
        return gain * crops + shift

    def _draw(self, random: torch.Generator) -> Tensor:
        x = self.images[self._below(len(self.images), random)]
        i, j = (self._below(side - self.crop + 1, random) for side in x.shape)
        x = x[i : i + self.crop, j : j + self.crop]
        if self.augment:
            x = torch.rot90(x, self._below(4, random))
            x = x.flip(1) if self._below(2, random) else x
        return x

    @staticmethod
    def _below(count: int, random: torch.Generator) -> int:
        return int(torch.randint(count, (), generator=random))
