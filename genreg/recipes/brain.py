"""The images of the recipes "brain-...": T1 slices of one head, deformed and recoloured at random.

There are two heads. The adult's slices are for training, in slabs of neighbouring ones, the child's for the test
alone: nothing is chosen by them. Neighbouring slices are nearly the same image, so what is held out of the
training are slabs too: one kind for the mean model, from which the head of the precision learns how large residuals
of unseen slices are, one kind for validation.

`BrainSampler` makes new images in every step. Slices lie half a pixel apart, so an image may be cut from the volume
along a tilted and bent surface without a loss of sharpness. It is then deformed in its plane (affine and smooth
elastic maps), given other intensities (a random monotone curve, which changes the contrast of tissues, a scale and
a smooth field like that of a receiving coil, which makes the rim bright), and a little noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genreg.datasets import brain_slices
from genreg.networks import Autoencoder, GridConfig
from genreg.training.batches import Sampler
from genreg.training.gaussian_likelihood import fit_gamma

ARCHITECTURE = GridConfig(
    image_shape=(128, 128),
    latent_dim=192,
    encoder=(16, 32, 64, 128),
    decoder=(16, 32, 64, 128),
    encoder_blocks=2,
)
TRAINING = ((0, 60), (74, 128), (142, 186), (200, 244), (258, 280))
"""Slabs of the adult's 280 slices, first and one past the last, for the mean model."""
CROSS = ((60, 74), (186, 200))
"""Slabs that only the head of the precision sees."""
VALIDATION = ((128, 142), (244, 258))
"""Slabs by which settings and weights are chosen."""


class BrainSampler:
    """A sampler ``f(n, *, seed)`` of images cut from slabs of a volume, deformed and recoloured.

    Parameters
    ----------
    volume : Tensor
        Slices, ``(slices, rows, columns)``, in [0, 1].
    slabs : sequence of pairs of int
        First slice and one past the last of each slab; no image mixes slices of two slabs.
    weights : sequence of float, optional
        How often slabs are drawn, relative to each other; by default as often as they have slices.
    deform : float
        Scale of the deformations, 1 for the full range.
    recolour : float
        Share of images whose intensities are changed.
    """

    def __init__(
        self,
        volume: Tensor,
        slabs: Sequence[tuple[int, int]],
        *,
        weights: Sequence[float] | None = None,
        deform: float = 1.0,
        recolour: float = 0.8,
    ) -> None:
        self.volume = volume
        self.slabs = torch.tensor(slabs)
        lengths = (self.slabs[:, 1] - self.slabs[:, 0]).double()
        self.weights = lengths if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.deform = deform
        self.recolour = recolour

    def __call__(self, n: int, *, seed: int) -> Tensor:
        """Draw ``(n, rows, columns)``."""
        random = torch.Generator().manual_seed(seed)
        return torch.cat([self._draw(min(n - first, 256), random) for first in range(0, n, 256)])

    def _draw(self, n: int, random: torch.Generator) -> Tensor:
        x = self._cut(n, random)
        x = self._deformed(x, random)
        x = self._recoloured(x, random)
        noise = 0.008 * torch.rand((n, 1, 1), generator=random).square()
        x = x + noise * torch.randn(x.shape, generator=random)
        x = torch.where(torch.rand((n, 1, 1), generator=random) < 0.5, x.abs(), x)
        x = torch.where(torch.rand((n, 1, 1), generator=random) < 0.5, x.flip(2), x)
        return x.clamp(0.0, 1.0)

    def _smooth(self, n: int, grid: int, random: torch.Generator) -> Tensor:
        """Smooth random fields ``(n, rows, columns)`` of about unit variance."""
        coarse = torch.randn((n, 1, grid, grid), generator=random)
        size = tuple(self.volume.shape[1:])
        return F.interpolate(coarse, size, mode="bicubic", align_corners=True)[:, 0]

    def _cut(self, n: int, random: torch.Generator) -> Tensor:
        """Images along tilted and bent surfaces, linear between neighbouring slices."""
        rows, columns = self.volume.shape[1:]
        slab = self.slabs[torch.multinomial(self.weights, n, replacement=True, generator=random)]
        first, last = slab[:, 0, None, None].float(), slab[:, 1, None, None].float() - 1
        level = first + torch.rand((n, 1, 1), generator=random) * (last - first)
        i = torch.arange(rows)[:, None] - rows / 2
        j = torch.arange(columns) - columns / 2
        tilt = 0.12 * self.deform * torch.randn((2, n, 1, 1), generator=random)
        z = level + tilt[0] * i + tilt[1] * j + 1.5 * self.deform * self._smooth(n, 5, random)
        z = torch.minimum(torch.maximum(z, first), last)
        below = z.floor().clamp_max(last - 1)
        share = z - below
        place = (below.long() * rows + torch.arange(rows)[:, None]) * columns + torch.arange(columns)
        values = self.volume.reshape(-1)
        return torch.lerp(values[place], values[place + rows * columns], share)

    def _deformed(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Bicubic interpolation at affine maps of the plane plus smooth displacements."""
        n, rows, columns = x.shape
        size = self.deform * torch.where(torch.rand(n, generator=random) < 0.85, 1.0, 0.0)
        angle = 0.2 * size * torch.randn(n, generator=random)
        scale = (0.1 * size[:, None] * torch.randn((n, 2), generator=random)).exp()
        shear = 0.08 * size * torch.randn(n, generator=random)
        shift = 0.08 * self.deform * torch.randn((n, 2), generator=random)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        stretch = torch.diag_embed(scale)
        stretch[:, 0, 1] = shear
        grid = F.affine_grid(
            torch.cat([turn @ stretch, shift[:, :, None]], 2), [n, 1, rows, columns], align_corners=False
        )
        bend = torch.stack([self._smooth(n, 7, random), self._smooth(n, 7, random)], 3)
        grid = grid + 0.035 * size[:, None, None, None] * torch.rand((n, 1, 1, 1), generator=random) * bend
        return F.grid_sample(x[:, None], grid, mode="bicubic", align_corners=False)[:, 0].clamp(0.0, 1.0)

    def _recoloured(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Other contrasts: a monotone curve, a smooth factor and a scale."""
        n, rows, columns = x.shape
        knots = 5
        steps = (0.7 * torch.randn((n, knots), generator=random)).exp()
        curve = F.pad((steps / steps.sum(1, keepdim=True)).cumsum(1), (1, 0))  # (n, knots + 1), from 0 to 1
        place = x * knots
        k = place.floor().clamp(0, knots - 1)
        lower = torch.gather(curve, 1, k.long().flatten(1)).view_as(x)
        upper = torch.gather(curve, 1, k.long().flatten(1) + 1).view_as(x)
        mapped = torch.lerp(lower, upper, place - k)
        mapped = mapped.pow((0.3 * torch.randn((n, 1, 1), generator=random)).exp())
        i = torch.linspace(-1, 1, rows)[:, None]
        j = torch.linspace(-1, 1, columns)
        rim = (0.5 + 0.7 * torch.randn((n, 1, 1), generator=random)) * (i.square() + j.square() - 0.4)
        factor = (rim + 0.15 * self._smooth(n, 4, random)).exp()
        mapped = mapped * factor
        brightest = mapped.flatten(1).kthvalue(int(0.998 * rows * columns), 1).values[:, None, None]
        scale = (0.5 + 0.6 * torch.rand((n, 1, 1), generator=random)) / brightest.clamp_min(0.05)
        mapped = (mapped * scale).clamp(0.0, 1.0)
        return torch.where(torch.rand((n, 1, 1), generator=random) < self.recolour, mapped, x)


def _volume(subject: int) -> Tensor:
    images, subjects = brain_slices()
    return images[subjects == subject]


def training_images() -> BrainSampler:
    """Sampler of the images for the mean model."""
    return BrainSampler(_volume(1), TRAINING, weights=(30, 54, 44, 44, 22))


def head_images() -> BrainSampler:
    """Sampler of the images for the precision: half of them from slabs that the mean has not seen."""
    return BrainSampler(_volume(1), (*TRAINING, *CROSS), weights=(15, 27, 22, 22, 11, 30, 67))


def validation_images() -> Tensor:
    """Slices of the adult that no training sees, as they are, ``(28, 128, 128)``."""
    volume = _volume(1)
    return torch.cat([volume[first:last] for first, last in VALIDATION])


def test_images() -> Tensor:
    """All slices of the child, ``(224, 128, 128)``, in random order, so that the first few are like the others."""
    volume = _volume(2)
    return volume[torch.randperm(len(volume), generator=torch.Generator().manual_seed(0))]


def darken(model: Autoencoder) -> None:
    """Let the decoder start with dark images, as all of these are.

    From grey ones the first steps make all its pixels black, where the sigmoid at its end has no gradient left.
    """
    last = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    assert last.bias is not None
    torch.nn.init.constant_(last.bias, -2.0)


def fit_noise(
    model: Autoencoder,
    quick: bool,
    progress: bool,
    checkpoint: Path,
    resume: bool,
    *,
    images_from: Callable[[], Sampler] = head_images,
) -> dict[str, Any]:
    """Fit gamma to images of which half are from slabs that the mean has not seen; the entries of the card."""
    images = 20 if quick else 1000
    gamma = fit_gamma(model, images_from()(images, seed=2**40 + 3).to(model.log_gamma.device))
    return {"gamma": {"value": gamma, "images": images, "data": "those for the precision"}}
