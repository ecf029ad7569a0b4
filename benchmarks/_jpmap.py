"""Problems with the sizes and noise levels of González, Almansa and Tan (arXiv:2103.01648), and one of tomography.

"cs", "inpainting" and "denoising" are of MNIST test digits and a fully connected VAE with 8 latent variables,
"tomography" is that of ``genreg demo``: shapes of 56 x 56 pixels, 40 angles, noise of 5 % of the largest datum.
"""

from __future__ import annotations

from typing import NamedTuple

import odl
import torch
from _digits import SPACE, digits
from _study import normal
from odl.applications import tomo
from torch import Tensor

import genreg
from genreg.operators import gaussian_measurements, mask, ray_transform

__all__ = ["AUTHORS", "PROBLEMS", "Problem", "data_images", "problem"]

PROBLEMS = {
    "cs": "compressed sensing, 140 Gaussian measurements, σ = 10/255",
    "inpainting": "inpainting, 80 % of the pixels missing, σ = 10/255",
    "denoising": "denoising, σ = 110/255",
    "tomography": "tomography, 40 angles, 5 % noise",
}
# Mean squared error and seconds for an image of the authors' published code (one image at a time, on 2 threads,
# with their model of the same layers), measured on another occasion.
AUTHORS = {
    "cs": {"CSGM": (0.0226, 0.44), "JPMAP": (0.0134, 4.1), "continuation": (0.0145, 18.9)},
    "inpainting": {"CSGM": (0.0259, 0.44), "JPMAP": (0.0185, 4.9), "continuation": (0.0185, 15.5)},
    "denoising": {"CSGM": (0.0200, 0.37), "JPMAP": (0.0157, 6.6)},
}


class Problem(NamedTuple):
    """Data y = A x + noise of images x, ``(B, n, n)``, and a generator."""

    A: odl.Operator
    x: Tensor
    y: Tensor
    noise_std: float
    G: genreg.Generator


def problem(name: str, count: int = 100, *, first: int = 0, model: str | None = None) -> Problem:
    """Set a problem up for `count` images, of MNIST the test images from number `first` on.

    Raises
    ------
    FileNotFoundError
        If MNIST is not there.
    """
    if name == "tomography":
        X = odl.uniform_discr([-1, -1], [1, 1], (56, 56), dtype="float32")
        A = ray_transform(X, tomo.parallel_beam_geometry(X, 40))
        x = genreg.datasets.shapes(count, seed=2**41 + first)
    else:
        X, x = SPACE, digits(count, first)
        A = _operator(name, X)
    clean = genreg.to_torch(A)(x)
    levels = {"denoising": 110 / 255, "tomography": 0.05 * float(clean.max())}
    noise_std = levels.get(name, 10 / 255)
    model = model or ("shapes-vae" if name == "tomography" else "mnist-vae-dense")
    return Problem(
        A,
        x,
        clean + noise_std * normal(clean.shape, 1 + first),
        noise_std,
        genreg.load_generator(model, range=X),
    )


def _operator(name: str, X: odl.DiscretizedSpace) -> odl.Operator:
    if name == "cs":
        return gaussian_measurements(X, 140, seed=0)
    if name == "inpainting":
        order = torch.randperm(X.size, generator=torch.Generator().manual_seed(0))
        return mask(X, (order < round(0.2 * X.size)).view(X.shape))
    return odl.IdentityOperator(X)


def data_images(p: Problem) -> Tensor:
    """The data as images: the known pixels on grey, or the transpose of A applied to them."""
    back = genreg.to_torch(p.A).adjoint(p.y)
    if hasattr(p.A, "keep"):
        return torch.where(p.A.keep, p.A.transpose(p.y).clamp(0, 1), 0.35)
    low, high = (back.flatten(1).quantile(q, dim=1)[:, None, None] for q in (0.01, 0.99))
    return ((back - low) / (high - low)).clamp(0, 1)
