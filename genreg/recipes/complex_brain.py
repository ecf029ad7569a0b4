"""The images of the recipes "brain-...-complex": slices of one head as complex images, two channels, in crops.

Magnitudes are those of `genreg.recipes.brain`. `genreg.datasets.complex_images` gives them a phase and shading, after
which the 99.8th percentile of a magnitude is the unit of grey values, up to a factor that is drawn. Of each a crop is
taken, some of which are enlarged, since heads have more pixels in other scans. White noise is added to both parts, of a
level that is drawn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genreg.datasets import complex_images
from genreg.networks import Autoencoder, FullyConvolutionalConfig
from genreg.operators.bridge.complex_parts import to_channels
from genreg.recipes import brain

CROP = 64
"""Side of the crops, in pixels."""

ARCHITECTURE = FullyConvolutionalConfig(
    image_shape=(2, CROP, CROP),
    channels=(24, 48, 64),
    latent_channels=20,
    top_channels=(32,),
    top_latent_channels=16,
)


class ComplexCrops:
    """A sampler ``f(n, *, seed)`` of complex crops, ``(n, 2, CROP, CROP)``, of the images of another sampler.

    Parameters
    ----------
    magnitudes
        Sampler of magnitude images in [0, 1], ``f(n, *, seed)``, ``(n, rows, columns)``.
    zoom
        Largest factor by which images are enlarged; half of them keep their size.
    noise
        Largest standard deviation of the noise of each part.
    """

    def __init__(self, magnitudes: brain.BrainSampler, *, zoom: float = 1.8, noise: float = 0.01) -> None:
        self.magnitudes, self.zoom, self.noise = magnitudes, zoom, noise

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, 2, CROP, CROP)``; two crops come from the same magnitudes, with other phases."""
        random = torch.Generator().manual_seed(seed)
        m = self.magnitudes((n + 1) // 2, seed=seed).repeat_interleave(2, 0)[:n]
        x = complex_images(m, seed=random)
        x = to_channels((0.5 + 0.55 * torch.rand((n, 1, 1), generator=random)) * _normalised(x))
        x = torch.cat([self._crop(image, random) for image in x.split(1)])
        level = self.noise * torch.rand((n, 1, 1, 1), generator=random).square()
        return x + level * torch.randn(x.shape, generator=random)

    def _crop(self, x: Tensor, random: torch.Generator) -> Tensor:
        zooms, amount, down, right = torch.rand(4, generator=random).tolist()
        side = CROP if zooms < 0.5 else round(CROP / self.zoom**amount)
        i, j = (round(place * (size - side)) for place, size in zip((down, right), x.shape[-2:], strict=True))
        x = x[..., i : i + side, j : j + side]
        return x if side == CROP else F.interpolate(x, (CROP, CROP), mode="bicubic", align_corners=False)


def training_images() -> ComplexCrops:
    """Sampler of the crops for the mean model."""
    return ComplexCrops(brain.training_images())


def head_images() -> ComplexCrops:
    """Sampler of the crops for the precision: half of them from slabs that the mean has not seen."""
    return ComplexCrops(brain.head_images())


def _normalised(x: Tensor) -> Tensor:
    """Complex images of which the 99.8th percentile of the magnitude is 1; those of less than 0.05 become 20 times."""
    magnitude = x.abs().flatten(1)
    brightest = magnitude.kthvalue(int(0.998 * magnitude.shape[1]), 1).values[:, None, None]
    return x / brightest.clamp_min(0.05)


def held_out(test: bool) -> Tensor:
    """Central crops of held-out slices with phases, ``(N, 2, CROP, CROP)``: the adult's, or half of the child's."""
    m = brain.test_images()[::2] if test else brain.validation_images()
    x = to_channels(_normalised(complex_images(m, seed=2**40 + int(test))))
    i, j = ((side - CROP) // 2 for side in x.shape[-2:])
    return x[..., i : i + CROP, j : j + CROP].contiguous()


def lay_out(model: Autoencoder) -> None:
    """Let the layers compute with channels last, which is a third faster on a CPU in bfloat16."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
