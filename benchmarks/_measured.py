r"""Measured k-space of a brain, seen by eight coils, and how well images predict samples that they have not seen.

There is no ground truth. Some of the acquired samples are held out, always in all coils: an image x is good if
:math:`\|A' x - y'\| / \|y'\|` is small for the held-out data y' and their operator A'. Even the true image has an error
there, the noise. Parameters are chosen on other samples than those that are reported.

The centre of k-space that the coil maps are estimated from is never held out: maps that have not seen it would be worse
than those that one would have, and maps that have would tell of it. It has nearly all of the energy, so that errors are
relative to what is left outside of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import odl
import torch
from torch import Tensor

from genreg.operators import FourierSampling, calibration_region, coil_maps, fourier_sampling, to_torch
from genreg.operators.mri.kspace_masks import central

__all__ = ["Data", "Errors", "Method", "Split", "load", "measured_file"]


def measured_file() -> Path:
    """The file with k-space, ``(8, 230, 180)``, from sigpy's tutorial.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    file = Path(os.environ.get("GENREG_DATA", "")) / "mri" / "brain_8coil_cartesian_ksp.npy"
    if not file.is_file():
        raise FileNotFoundError(
            f"GENREG_DATA must name a folder with {file.parent.name}/{file.name}, see the README"
        )
    return file


class Split(NamedTuple):
    """Disjoint masks of k-space, ``(n, m)``: samples to reconstruct from, to choose parameters with, to report on."""

    train: Tensor
    tuning: Tensor
    test: Tensor


class Errors(NamedTuple):
    """Relative errors of the prediction of held-out samples.

    Attributes
    ----------
    all, inner, outer : Tensor
        Of all of them, of those below and of those above a quarter of a cycle per pixel, ``(B,)``.
    """

    all: Tensor
    inner: Tensor
    outer: Tensor


@dataclass(frozen=True)
class Data:
    """Measured data, scaled so that grey values are about those of images in [0, 1].

    Attributes
    ----------
    kspace : Tensor
        ``(C, n, m)``, zero where it was not measured.
    maps : Tensor
        Sensitivities of the coils. Those by "low-resolution" take over the phase of the image, which is then nearly
        real and positive.
    noise_std : float
        Standard deviation of the noise of a real and of an imaginary part, from the outermost samples: an upper bound.
    """

    kspace: Tensor
    maps: Tensor
    noise_std: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.kspace.shape[1], self.kspace.shape[2]

    @property
    def mask(self) -> Tensor:
        """What was measured."""
        return (self.kspace != 0).any(0)

    def space(self, kind: Literal["real", "complex"]) -> odl.DiscretizedSpace:
        """Images with pixels of side 1, so that norms are sums over the pixels."""
        dtype = "float32" if kind == "real" else "complex64"
        return odl.uniform_discr([0, 0], self.shape, self.shape, dtype=dtype)

    def sampled(
        self, mask: Tensor, kind: Literal["real", "complex"] = "complex"
    ) -> tuple[FourierSampling, Tensor]:
        """The forward operator on images of a kind for the samples of a mask, and the data, ``(C, samples)``."""
        A = fourier_sampling(self.space(kind), mask, coils=self.maps)
        return A, A.samples(self.kspace)

    def phased(self, image: Tensor) -> Data:
        """The data with the phase of a complex image ``(n, m)`` in the coil maps, for images that are real."""
        phase = torch.polar(torch.ones(self.shape), image.angle())
        return replace(self, maps=self.maps * phase)

    def split(self, *, test: float, tuning: float, seed: int) -> Split:
        """Hold out fractions of all samples, outside of the centre that the coil maps are estimated from."""
        mask, free = self.mask, self.mask.clone()
        sizes = calibration_region(mask)
        free[central(mask.shape, sizes)] = False
        places = free.flatten().nonzero().squeeze(1)
        places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]
        first, second = round(test * int(mask.sum())), round(tuning * int(mask.sum()))
        parts = [torch.zeros(mask.numel(), dtype=torch.bool) for _ in range(2)]
        parts[0][places[:first]] = True
        parts[1][places[first : first + second]] = True
        held_out, choosing = (part.view(mask.shape) for part in parts)
        return Split(mask & ~held_out & ~choosing, choosing, held_out)

    def errors(self, images: Tensor, mask: Tensor) -> Errors:
        """Errors of complex images ``(B, n, m)`` on the samples of a mask."""
        A, y = self.sampled(mask)
        residual, inner = to_torch(A)(images) - y, self._inner()[mask]
        return Errors(
            *(_relative(residual[..., part], y[..., part]) for part in (inner | True, inner, ~inner))
        )

    def floor(self, mask: Tensor) -> Errors:
        """Errors that the noise leaves to the true image, at most."""
        _, y = self.sampled(mask)
        inner = self._inner()[mask]
        noise = torch.full_like(y, math.sqrt(2) * self.noise_std)
        return Errors(*(_relative(noise[None, ..., p], y[..., p]) for p in (inner | True, inner, ~inner)))

    def _inner(self) -> Tensor:
        lines = [(torch.arange(n) - n // 2).abs() < n / 4 for n in self.shape]
        return lines[0][:, None] & lines[1]

    def coarse(self, factor: int) -> Data:
        """The central part of k-space: the same field of view with fewer pixels."""
        size = [n // factor for n in self.shape]
        return _scaled(self.kspace[..., *central(self.shape, size)], "low-resolution", self.noise_std)


def _relative(residual: Tensor, y: Tensor) -> Tensor:
    return residual.abs().square().sum((-2, -1)).sqrt() / y.abs().square().sum().sqrt()


def load(file: Path, *, maps: Literal["low-resolution", "espirit"] = "low-resolution") -> Data:
    """Read the data and estimate coil maps."""
    k = torch.from_numpy(np.load(file))
    radius = [((torch.arange(n) - n // 2) / n).square() for n in k.shape[1:]]
    outermost = (k != 0).any(0) & ((radius[0][:, None] + radius[1]).sqrt() > 0.48)
    noise_std = float(k[:, outermost].abs().square().mean().div(2).sqrt())
    return _scaled(k, maps, noise_std)


def _scaled(k: Tensor, maps: Literal["low-resolution", "espirit"], noise_std: float) -> Data:
    S = coil_maps(k, method=maps)
    measured = (k != 0).any(0)
    centre = torch.zeros_like(measured)
    centre[central(measured.shape, calibration_region(measured))] = True
    A = fourier_sampling(odl.cn(tuple(k.shape[1:]), dtype="complex64"), centre, coils=S)
    bright = float(A.transpose(A.samples(k)).abs().flatten().quantile(0.99))
    return Data(k / bright, S, noise_std / bright)


@dataclass(frozen=True)
class Method:
    """A way to reconstruct, with one parameter.

    Attributes
    ----------
    solve : callable
        ``solve(data, mask, parameters)``: complex images ``(len(parameters), n, m)`` from the samples of a mask.
    grid : tuple of float
        Parameters to choose from; a single one where there is nothing to choose.
    """

    solve: Callable[[Data, Tensor, Sequence[float]], Tensor]
    grid: tuple[float, ...] = (0.0,)
