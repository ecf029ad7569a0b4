r"""Learned priors for measured multi-coil data: generators of small magnitude images, at the resolution of the scanner.

The shipped models of brains have 128 x 128 pixels. An image of theirs, resampled to the 230 x 180 pixels of the data,
cannot explain k-space beyond its own resolution, so only the mean is resampled. The precision is predicted by the
head of the model from the resampled mean: the head is convolutional, so that it takes images of any size. That the
details of pixels of another size are alike is an assumption, and the model has never seen such images.

These models know magnitudes in [0, 1] only. The phase is that of a complex TV image, which is put into the coil maps,
and its 99.8th percentile is the unit of grey values. The mean is placed where that image shows the subject.

`LearnedComplex` needs neither: its model is fully convolutional and makes complex images of any size, at the resolution
of the scanner as it is. `phased` gives a model of magnitudes a phase, which is fitted with the latent vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from _measured import Data
from _mri_generative import quasi_newton_solver
from torch import Tensor, nn

import genreg
from genreg import solvers
from genreg.networks import with_phase
from genreg.solvers.generative.profiled import maximise_profile
from genreg.solvers.generative.structured import StructuredProblem

__all__ = [
    "BRIGHT",
    "HEIGHT",
    "Learned",
    "LearnedComplex",
    "Placement",
    "Resampled",
    "convolutional",
    "cubic",
    "phased",
]

BRIGHT = 0.998  # share of the pixels that are at most 1, much as in the training images
HEIGHT = 100.0  # rows of the subject in the training slices at the level of the ventricles


def cubic(places: Tensor, size: int, pitch: float) -> Tensor:
    """The matrix ``(len(places), size)`` of cubic interpolation (Keys) at places, in pixels of the `size` given ones.

    Pixels beyond the ends are zero. For a pitch of the places above 1 the kernel is as much wider, against aliasing.
    """
    width = max(pitch, 1.0)
    t = (places[:, None] - torch.arange(size)).abs() / width
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0)) / width


@dataclass(frozen=True)
class Placement:
    """Where pixels of a model lie in an image: pixel i of n along an axis at centre + pitch (i - (n - 1) / 2).

    Attributes
    ----------
    centre : tuple of float
        Row and column of the image that the centre of the model's image is at.
    pitch : float
        Side of a pixel of the model in those of the image.
    """

    centre: tuple[float, float]
    pitch: float

    @classmethod
    def of(cls, magnitude: Tensor, height: float, threshold: float = 0.1) -> Placement:
        """That by which the subject of an image ``(n, m)`` in [0, 1] gets a height in pixels of the model.

        Raises
        ------
        ValueError
            If no row or no column has more than five pixels above the threshold.
        """
        ends = []
        for axis in (1, 0):
            inside = ((magnitude > threshold).sum(axis) > 5).nonzero()
            if not len(inside):
                raise ValueError(f"magnitude must have rows and columns above {threshold}, got none")
            ends.append((float(inside.min()), float(inside.max())))
        (top, bottom), (left, right) = ends
        return cls(((top + bottom) / 2, (left + right) / 2), (bottom - top + 1) / height)


class Resampled(nn.Module):
    """A structured model of images on a finer grid: its mean is resampled, its head applied to the resampled mean.

    Parameters
    ----------
    model
        The model.
    shape
        Rows and columns of the images.
    placement
        Where the model's pixels lie in them.
    """

    def __init__(self, model: Any, shape: tuple[int, int], placement: Placement) -> None:
        super().__init__()
        self.model, self.config, self.log_gamma = model, model.config, model.log_gamma
        self.image_shape, self.latent_dim = shape, model.latent_dim
        pitch = placement.pitch
        for axis, name in enumerate(("rows", "columns")):
            fine, coarse = shape[axis], model.image_shape[axis]
            middle, centre = (coarse - 1) / 2, placement.centre[axis]
            up = cubic((torch.arange(fine) - centre) / pitch + middle, coarse, 1 / pitch)
            down = cubic((torch.arange(coarse) - middle) * pitch + centre, fine, pitch)
            self.register_buffer(f"up_{name}", up)
            self.register_buffer(f"down_{name}", down)

    def decode(self, z: Tensor) -> Tensor:
        """The mean images ``(B, *image_shape)``."""
        return self.up_rows @ self.model.decode(z) @ self.up_columns.mT

    def encode(self, x: Tensor) -> Tensor:
        """The mean latent vectors of images ``(B, *image_shape)``."""
        return self.model.encode(self.down_rows @ x @ self.down_columns.mT)

    def factor_of(self, mean: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logarithmic diagonal and weights of the precision of images with these means."""
        n, m = self.image_shape
        unit = 2 ** len(self.config.channels)
        padded = F.pad(mean, (0, -m % unit, 0, -n % unit))
        log_diag, weights = self.model.factor_of(padded)
        return log_diag[..., :n, :m], None if weights is None else weights[..., :n, :m]

    def decode_factor(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same, for latent vectors."""
        return self.factor_of(self.decode(z))


@dataclass(frozen=True)
class Learned:
    r"""The maximum of the joint posterior of image and latent vector, from the code of a TV image.

    Attributes
    ----------
    weights : str
        Name of the model, a structured one.
    reference : callable
        ``reference(data, mask)``: the complex image ``(n, m)`` that gives phase, unit, place and first code.
    isotropic : bool
        Whether the one standard deviation that was fitted to the residuals of the mean takes the place of the
        precision of the head.
    max_iter : int
        Turns at most.
    tol : float
        Error of an image given z, in posterior standard deviations.
    """

    weights: str
    reference: Callable[[Data, Tensor], Tensor]
    isotropic: bool = False
    max_iter: int = 12
    tol: float = 0.05

    def __call__(self, data: Data, mask: Tensor, parameters: Sequence[float]) -> Tensor:
        """Reconstruct with the prior to the power of each parameter; to be the ``solve`` of a `Method`."""
        image = self.reference(data, mask)
        unit = float(image.abs().quantile(BRIGHT))
        magnitude = image.abs() / unit
        A, y = data.phased(image).sampled(mask, "real")
        G = self.generator(magnitude, A.domain)
        count = len(parameters)
        rec = genreg.reconstruct(
            A,
            (y / unit).expand(count, *y.shape).contiguous(),
            genreg.JointPrior(G, float(G.std) ** -2 if self.isotropic else None),  # type: ignore[arg-type]
            noise_std=data.noise_std / unit,
            lam=torch.tensor(parameters),
            init={
                "x": magnitude.expand(count, -1, -1),
                "z": G.encode(magnitude[None]).expand(count, -1),
            },
            solver=quasi_newton_solver(G, self.tol),
            max_iter=self.max_iter,
            progress=False,
        )
        return torch.polar(unit * rec.image, image.angle().expand(count, -1, -1))

    def generator(self, magnitude: Tensor, space: Any) -> genreg.Generator:
        """The model at the resolution of an image ``(n, m)`` in [0, 1], with the subject where it is there."""
        model, _ = genreg.weights.load(self.weights)
        place = Placement.of(magnitude, HEIGHT)
        return genreg.Generator(Resampled(model, tuple(magnitude.shape), place), space)


def convolutional(weights: str, image: Tensor, space: Any, unit: float) -> genreg.Generator:
    """A fully convolutional model of complex images, at the size and in the units of the data."""
    return genreg.load_generator(weights, space, scale=unit)


def phased(weights: str, image: Tensor, space: Any, unit: float) -> genreg.Generator:
    """A model of small magnitude images at the resolution of the data, with a phase in its latent vector."""
    model, _ = genreg.weights.load(weights)
    resampled = Resampled(model, tuple(image.shape), Placement.of(image.abs() / unit, HEIGHT))
    return genreg.Generator(with_phase(resampled), space, scale=unit)


@dataclass(frozen=True)
class LearnedComplex:
    r"""The maximum of the joint posterior of a complex image and a latent vector, from the code of a TV image.

    Attributes
    ----------
    weights : str
        Name of the model.
    make : callable
        `convolutional` or `phased`.
    reference : callable
        ``reference(data, mask)``: the complex image ``(n, m)`` that gives unit and first code.
    isotropic : bool
        Whether the one standard deviation of the mean takes the place of the precision of the head.
    max_iter : int
        Steps at most.
    tol : float
        Error of an image given z, in posterior standard deviations.
    """

    weights: str
    make: Callable[[str, Tensor, Any, float], genreg.Generator]
    reference: Callable[[Data, Tensor], Tensor]
    isotropic: bool = False
    max_iter: int = 8
    tol: float = 0.05

    def __call__(self, data: Data, mask: Tensor, parameters: Sequence[float]) -> Tensor:
        """Reconstruct with the prior to the power of each parameter; to be the ``solve`` of a `Method`."""
        image = self.reference(data, mask)
        A, y = data.sampled(mask)
        G = self.make(self.weights, image, A.domain, float(image.abs().quantile(BRIGHT)))
        count = len(parameters)
        rec = genreg.reconstruct(
            A,
            y.expand(count, *y.shape).contiguous(),
            self.prior(G),
            noise_std=data.noise_std,
            lam=torch.tensor(parameters),
            init={"x": image.expand(count, -1, -1), "z": G.encode(image[None]).expand(count, -1)},
            solver=self._solve(G),
            max_iter=self.max_iter,
            progress=False,
        )
        return rec.image

    def prior(self, G: genreg.Generator) -> genreg.JointPrior:
        """The prior of image and latent vector: the one place that says what is estimated."""
        return genreg.JointPrior(G, float(G.std) ** -2 if self.isotropic else None)  # type: ignore[arg-type]

    def _solve(self, G: genreg.Generator) -> Callable[..., solvers.Solution]:
        def solve(problem: Any, init: Mapping[str, Tensor], **settings: Any) -> solvers.Solution:
            if isinstance(problem, StructuredProblem):
                problem = replace(problem, tol=self.tol)
            return maximise_profile(problem, init, G.encode, **settings)

        return solve
