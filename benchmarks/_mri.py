r"""Slices of a brain, radial samples of their Fourier transforms, and what the benchmarks of MRI have in common.

Data are :math:`y = A x + \sigma (n_1 + i n_2)`, A the centred orthonormal Fourier transform on the points of a
Cartesian grid nearest to radial spokes, x a magnitude image in [0, 1], n₁ and n₂ standard normal: σ is the standard
deviation of the noise of a real and of an imaginary part, relative to the image range. Subject 1 is for training and,
with slices that are held out, for the choice of parameters, subject 2 for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import odl
import torch
from torch import Tensor

import genreg
from genreg.datasets import brain_slices
from genreg.evaluation import psnr, ssim
from genreg.operators import fourier_sampling, radial_mask, to_torch
from genreg.recipes import brain

__all__ = [
    "FULL",
    "QUICK",
    "TRAINED",
    "Measured",
    "Result",
    "Setting",
    "Sizes",
    "evenly",
    "generator",
    "measure",
    "noisy",
    "space",
    "test_slices",
    "tuning_slices",
]

_INSIDE = 0.1  # a pixel above this grey value belongs to the head ...
_FULL_ENOUGH = 0.15  # ... and a slice with a smaller share of them counts as nearly empty


class Setting(NamedTuple):
    """Number of spokes, and σ."""

    spokes: int
    noise_std: float

    def __str__(self) -> str:
        return f"{self.spokes} spokes, σ = {self.noise_std:g}"


TRAINED = Setting(30, 0.0125)
"""Setting on which the supervised network is trained."""


@dataclass(frozen=True)
class Sizes:
    """What is computed.

    Attributes
    ----------
    spokes, noise : tuple
        The settings.
    test, tuning : int
        Slices of subject 2, and of subject 1 for the choice of parameters.
    crop : int
        Rows and columns of the images.
    quick : bool
        Whether the solvers take a few steps only.
    """

    spokes: tuple[int, ...] = (10, 20, 30, 40, 60, 80)
    noise: tuple[float, ...] = (0.0125, 0.05)
    test: int = 20
    tuning: int = 6
    crop: int = 128
    quick: bool = False

    @property
    def settings(self) -> list[Setting]:
        """All settings."""
        return [Setting(spokes, noise) for noise in self.noise for spokes in self.spokes]


FULL = Sizes()
QUICK = Sizes(spokes=(10, 30), noise=(0.0125,), test=2, tuning=2, quick=True)


def test_slices(count: int) -> Tensor:
    """Slices of subject 2, a child, ``(count, 128, 128)``, spread evenly over those that are not nearly empty.

    Raises
    ------
    FileNotFoundError
        If they are not there.
    """
    images, subjects = brain_slices()
    images = images[subjects == 2]
    return images[evenly(images, count)]


def tuning_slices(count: int) -> Tensor:
    """Slices of subject 1, an adult, that no model has been trained on, likewise."""
    images = brain.validation_images()
    return images[evenly(images, count)]


def evenly(images: Tensor, count: int) -> Tensor:
    """Numbers of `count` images spread evenly over those that are not nearly empty, the first and last included.

    Nearly empty is fixed in advance: less than 15 % of the pixels above a tenth of the range.
    """
    full = ((images > _INSIDE).flatten(1).float().mean(1) >= _FULL_ENOUGH).nonzero().squeeze(1)
    return full[torch.linspace(0, len(full) - 1, count).round().long()]


@dataclass(frozen=True)
class Measured:
    """Data of images x, ``(B, n, m)``, for one setting.

    Attributes
    ----------
    setting : Setting
        Spokes and σ.
    A : odl.Operator
        Forward operator.
    x, y : Tensor
        Images and data.
    """

    setting: Setting
    A: odl.Operator
    x: Tensor
    y: Tensor

    @functools.cached_property
    def zero_filled(self) -> Tensor:
        """The transpose of A applied to the data."""
        return to_torch(self.A).adjoint(self.y)

    def take(self, index: Tensor | slice) -> Measured:
        """The data of some of the images."""
        return Measured(self.setting, self.A, self.x[index], self.y[index])


@functools.cache
def space(n: int, m: int) -> odl.DiscretizedSpace:
    """Images of n x m pixels of side 1, so that norms are sums over the pixels."""
    return odl.uniform_discr([0, 0], [n, m], (n, m), dtype="float32")


def generator(name: str) -> genreg.Generator:
    """A model that comes with the package."""
    return genreg.load_generator(name, range=space(128, 128))


def noisy(clean: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    """Data with noise of standard deviation `noise_std` in the real and in the imaginary part."""
    noise = torch.randn((2, *clean.shape), generator=generator, dtype=clean.real.dtype)
    return clean + noise_std * torch.complex(*noise)


def measure(x: Tensor, setting: Setting, *, seed: int) -> Measured:
    """Simulate data; the noise depends on the setting and on `seed`."""
    shape = tuple(x.shape[1:])
    A = fourier_sampling(space(*shape), radial_mask(shape, setting.spokes))
    random = torch.Generator().manual_seed(
        10_000 * seed + 100 * setting.spokes + round(1e3 * setting.noise_std)
    )
    return Measured(setting, A, x, noisy(to_torch(A)(x), setting.noise_std, random))


@dataclass(frozen=True)
class Result:
    """Images of one method for one setting.

    Attributes
    ----------
    images : Tensor
        ``(B, n, m)``.
    seconds : float
        Time for a slice.
    parameters : dict
        What was chosen on subject 1.
    note : str
        What else is worth a note.
    """

    images: Tensor
    seconds: float
    parameters: Mapping[str, float]
    note: str = ""

    def scores(self, truth: Tensor) -> dict[str, Tensor]:
        """PSNR in dB and SSIM of every slice, for the data range 1."""
        return {
            "psnr": psnr(self.images, truth, data_range=1.0),
            "ssim": ssim(self.images, truth, data_range=1.0),
        }
