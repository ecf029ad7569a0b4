"""Crops for the recipes of priors for images of any size: of brain slices, and of dead leaves.

A fully convolutional model sees crops of 64 x 64 pixels, which hold all that its receptive field needs, and serves
images of any size. Slices of the brain are those of `genreg.recipes.brain`, in part enlarged, since heads have more
pixels in other scans. Dead leaves need no data: a seed makes them, and that restoration networks trained on such images
do well on photographs is known (Achddou, Gousseau, Ladjal 2021).

References
----------
A. B. Lee, D. Mumford, J. Huang (2001), Occlusion models for natural images: a statistical study of a scale-invariant
dead leaves model, doi:10.1023/A:1011109015675.

R. Achddou, Y. Gousseau, S. Ladjal (2021), Synthetic images as a regularity prior for image restoration neural networks,
doi:10.1007/978-3-030-75549-2_27.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from genreg.datasets import dead_leaves
from genreg.networks import FullyConvolutionalConfig, StructuredConfig
from genreg.recipes import brain
from genreg.training.batches import Sampler

CROP = 64
"""Side of the crops, in pixels."""

BRAIN = StructuredConfig(
    mean=FullyConvolutionalConfig(image_shape=(CROP, CROP), channels=(24, 48, 64), latent_channels=8),
    channels=(16, 32, 48),
    distance=2,
)
LEAVES = StructuredConfig(
    mean=FullyConvolutionalConfig(image_shape=(CROP, CROP), channels=(32, 64), latent_channels=4),
    channels=(24, 48, 64),
    distance=2,
)

_COUNT = 3000  # images of dead leaves to crop
_PER_IMAGE = 2


class Crops:
    """A sampler ``f(n, *, seed)`` of crops, ``(n, CROP, CROP)``; two come from the same image.

    Parameters
    ----------
    images
        Images ``(N, rows, columns)``, or a sampler of them.
    zoom
        Largest factor by which images are enlarged; half of them keep their size.
    turned
        Whether crops are turned by quarters and mirrored at random.
    contrast
        Least factor of the contrast of a crop, with a uniform logarithm; half of them keep theirs.
    noise
        Largest standard deviation of the white noise that is added, uniform from 0. A precision that has seen enlarged
        images without it takes the noise of real ones for impossible.
    """

    def __init__(
        self,
        images: Tensor | Sampler,
        *,
        zoom: float = 1.0,
        turned: bool = False,
        contrast: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        self.images, self.zoom, self.turned, self.contrast = images, zoom, turned, contrast
        self.noise = noise

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, CROP, CROP)``."""
        random = torch.Generator().manual_seed(seed)
        count = -(-n // _PER_IMAGE)
        if isinstance(self.images, Tensor):
            drawn = torch.randint(len(self.images), (count,), generator=random)
            whole = self.images[drawn].float()
        else:
            whole = self.images(count, seed=seed)
        crops = [self._crop(image, random) for image in whole.repeat_interleave(_PER_IMAGE, 0)[:n]]
        x = torch.stack(crops)
        if not self.noise:
            return x
        level = self.noise * torch.rand((n, 1, 1), generator=random)
        return x + level * torch.randn(x.shape, generator=random)

    def _crop(self, x: Tensor, random: torch.Generator) -> Tensor:
        zoomed, amount, down, right = torch.rand(4, generator=random).tolist()
        side = CROP if zoomed < 0.5 else round(CROP / self.zoom**amount)
        i, j = (round(place * (size - side)) for place, size in zip((down, right), x.shape, strict=True))
        x = x[i : i + side, j : j + side]
        if side < CROP:
            x = F.interpolate(x[None, None], (CROP, CROP), mode="bicubic", align_corners=False)[0, 0].clamp(
                0, 1
            )
        if self.turned:
            turns, mirrored = (
                torch.randint(8, (1,), generator=random).item() % 4,
                torch.rand(1, generator=random),
            )
            x = torch.rot90(x, int(turns))
            x = x.flip(1) if mirrored < 0.5 else x
        return x


def brain_training() -> Crops:
    """Crops for the mean."""
    return Crops(brain.training_images(), zoom=1.8)


def brain_head() -> Crops:
    """Crops for the precision: half of them from slabs that the mean has not seen; with noise."""
    return Crops(brain.head_images(), zoom=1.8, noise=0.02)


def brain_held_out(test: bool) -> Tensor:
    """Central crops of held-out slices, ``(N, CROP, CROP)``: the adult's, or half of the child's."""
    x = brain.test_images()[::2] if test else brain.validation_images()
    i, j = ((side - CROP) // 2 for side in x.shape[-2:])
    return x[..., i : i + CROP, j : j + CROP].contiguous()


@functools.cache
def _pool() -> Tensor:
    return dead_leaves(_COUNT, seed=0).half()


def leaves() -> Crops:
    """Crops of 3,000 images of dead leaves, enlarged, turned and of less contrast; making them takes two minutes."""
    return Crops(_pool(), zoom=3.0, turned=True, contrast=0.1)


def noisy_leaves() -> Crops:
    """The same with noise, for the precision."""
    return Crops(_pool(), zoom=3.0, turned=True, contrast=0.1, noise=0.03)


def leaves_held_out(test: bool) -> Tensor:
    """Other images, ``(64, CROP, CROP)``: the middle of larger ones."""
    x = dead_leaves(64, seed=2**40 + int(test))
    i, j = ((side - CROP) // 2 for side in x.shape[-2:])
    return x[..., i : i + CROP, j : j + CROP].contiguous()
