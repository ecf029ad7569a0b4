"""The inverse problems of Duff, Campbell and Ehrhardt (arXiv:2107.11191), section 5, as in their public code.

The forward operator is divided by its norm, then white noise is added to the data. Parameters are chosen on
images 0 to 19 of the test set and results reported on images 100 to 199. Their PSNR is skimage's with the data
range 2 (their code passes it), although the images lie in [0, 1], or [0, 0.5] for shapes: it is 6.02 dB
above the PSNR for the range 1. `PEAK` is theirs, so that numbers can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import odl
import torch
from _digits import digits
from _study import normal
from odl.applications import tomo
from torch import Tensor

from genreg import datasets, to_torch
from genreg.operators import blur, gaussian_measurements, normalised, ray_transform

__all__ = ["PEAK", "PROBLEMS", "Problem", "make"]

PEAK = 2.0


@dataclass(frozen=True)
class Problem:
    """A forward operator with images and data to choose parameters with, and others to report on."""

    title: str
    A: odl.Operator
    noise_std: float
    train: Tensor
    test: Tensor
    y_train: Tensor
    y_test: Tensor

    @property
    def space(self) -> odl.DiscretizedSpace:
        return self.A.domain


SMALL = odl.uniform_discr([-14, -14], [14, 14], (28, 28), dtype="float32")


def _deconvolution() -> odl.Operator:
    axis = torch.arange(5) - 2.0
    kernel = torch.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    return blur(SMALL, (kernel / kernel.sum()).numpy(), boundary="zero")


def _tomography() -> odl.Operator:
    X = odl.uniform_discr([-28, -28], [28, 28], (56, 56), dtype="float32")
    return ray_transform(X, tomo.parallel_beam_geometry(X))  # 125 angles, 81 detector pixels


PROBLEMS: dict[str, tuple[str, Callable, float, Callable]] = {
    "1a": (
        "MNIST, 150 Gaussian measurements, noise 0.1",
        lambda: gaussian_measurements(SMALL, 150, seed=0),
        0.1,
        lambda: digits(200),
    ),
    "1b": ("shapes, tomography, noise 0.1", _tomography, 0.1, lambda: datasets.shapes(200, seed=2**41)),
    "5.3": (
        "shapes+, tomography, noise 0.05",
        _tomography,
        0.05,
        lambda: datasets.shapes_plus(200, seed=2**41),
    ),
    "deconvolution": ("MNIST, 5 x 5 Gaussian kernel, noise 0.1", _deconvolution, 0.1, lambda: digits(200)),
}


def make(name: str, *, choose: int = 20, report: int = 100) -> Problem:
    """Set a problem up with so many images to choose parameters with, and to report on."""
    title, operator, noise_std, images = PROBLEMS[name]
    A, images = normalised(operator()), images()
    clean = to_torch(A)(images)
    y = clean + noise_std * normal(clean.shape, 1)
    train, test = slice(0, choose), slice(100, 100 + report)
    return Problem(title, A, noise_std, images[train], images[test], y[train], y[test])
