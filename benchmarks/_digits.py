"""Digits of 28 x 28 pixels for the benchmarks: images of the test set, generators, operators and data."""

from __future__ import annotations

from typing import NamedTuple

import odl
import torch
from _study import normal
from torch import Tensor

import genreg
from genreg import datasets
from genreg.operators import gaussian_measurements, mask, to_torch
from genreg.sampling import LatentPosterior

__all__ = ["SPACE", "Problem", "digits", "generator", "measure", "of_generator", "operator", "posterior"]

SPACE = odl.uniform_discr([0, 0], [1, 1], (28, 28), dtype="float32")


def generator(name: str) -> genreg.Generator:
    """A trained generator of digits."""
    return genreg.load_generator(name, range=SPACE)


def digits(count: int, first: int = 0) -> Tensor:
    """Images of MNIST's test set, which no model has seen, from number `first` on."""
    return datasets.mnist(train=False)[0][first : first + count]


def of_generator(G: genreg.Generator, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws z of the prior, and G(z)."""
    z = normal((count, *G.domain.shape), seed)
    with torch.no_grad():
        return z, G.decode(z).mean


def operator(task: str, size: int, *, matrix_seed: int = 1, pixel_seed: int = 2) -> odl.Operator:
    """Some pixels at random ("inpainting"), random measurements ("compressed sensing"), or all pixels ("denoising").

    Parameters
    ----------
    task : str
        One of the three.
    size : int
        Number of measurements; those of a smaller number of pixels are among those of a larger one.
    matrix_seed, pixel_seed : int
        Seeds of the measurements and of the pixels.
    """
    if task == "denoising":
        return odl.IdentityOperator(SPACE)
    if task == "compressed sensing":
        return gaussian_measurements(SPACE, size, seed=matrix_seed)
    keep = torch.zeros(SPACE.size, dtype=torch.bool)
    keep[torch.randperm(SPACE.size, generator=torch.Generator().manual_seed(pixel_seed))[:size]] = True
    return mask(SPACE, keep.view(SPACE.shape))


class Problem(NamedTuple):
    """Images and their data."""

    A: odl.Operator
    x: Tensor
    y: Tensor
    noise_std: float


def posterior(problem: Problem, G: genreg.Generator) -> LatentPosterior:
    """The latent posterior of all images."""
    return LatentPosterior(genreg.GaussianFidelity(problem.A, problem.y, noise_std=problem.noise_std), G)


def measure(x: Tensor, task: str, size: int, noise_std: float, *, seed: int = 3) -> Problem:
    """Data of all images with white noise."""
    A = operator(task, size)
    clean = to_torch(A)(x)
    return Problem(A, x, clean + noise_std * normal(clean.shape, seed), noise_std)
