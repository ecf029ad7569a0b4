r"""Covariances, correlations and variances of the pixels, from a precision.

The covariance :math:`\Sigma = \Lambda^{-1}` of a sparse precision is dense. One of its columns costs one solve. Its
diagonal, the marginal variances, costs a *selected inversion*: :math:`L^T \Sigma = L^{-1}` is lower triangular, so

.. math:: \Sigma_{ip} = \Bigl[\frac{1}{L_{pp}^2}\Bigr]_{i = p}
          - \frac{1}{L_{pp}} \sum_k L_{p + k,\, p}\, \Sigma_{p + k,\, i} \qquad (i \ge p)

gives the covariances of pixel p with later pixels from the covariances among these. Only a band has to be kept, whose
width is the reach of the neighbourhood.

For large images the variances are estimated from draws :math:`x = L^{-T} u`. Given the later pixels, :math:`x_p` has
the variance :math:`L_{pp}^{-2}` and the mean :math:`x_p - u_p / L_{pp}`, and so

.. math:: \Sigma_{pp} = L_{pp}^{-2} + \mathrm{E} \bigl[(x_p - u_p / L_{pp})^2\bigr] .

This conditions on later pixels only, where the Rao-Blackwellised estimator of Sidén et al. conditions on all other
pixels. So, by the same theorem, it has a smaller error, and it needs only the draw.

References
----------
K. Takahashi, J. Fagan, M.-S. Chin (1973), Formation of a sparse bus impedance matrix and its application to short
circuit study, 8th PICA Conference.

H. Rue, S. Martino (2007), Approximate Bayesian inference for hierarchical Gaussian Markov random field models,
doi:10.1016/j.jspi.2006.07.016.

P. Sidén, F. Lindgren, D. Bolin, M. Villani (2018), Efficient covariance approximations for large sparse precision
matrices, doi:10.1080/10618600.2018.1473782.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genreg.operators.bridge.arguments import choice, integer, seeded_generator
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.precision.base import Precision, white_noise
from genreg.operators.precision.complex_images import real_images
from genreg.operators.precision.dense import DenseCholeskyPrecision
from genreg.operators.precision.diagonal import DiagonalPrecision, IsotropicPrecision
from genreg.operators.precision.factor_product import outer
from genreg.operators.precision.sparse_cholesky import SparseCholeskyPrecision

_EXACT = 4 * 10**9  # multiplications of a selected inversion, up to which it takes some seconds
_CHUNK = 2**22  # entries of the draws that are held at a time


class Estimate(NamedTuple):
    """An estimate with its standard error.

    Attributes
    ----------
    value : Tensor
        The estimate.
    error : Tensor
        Standard error of every entry, of the same shape; zeros for an exact value.
    """

    value: Tensor
    error: Tensor


@torch.no_grad()
def covariance_column(precision: Precision, index: Sequence[int]) -> Tensor:
    r"""The covariances of a pixel with all pixels, :math:`\Lambda^{-1} e_i`, ``(*batch, *shape)``.

    Parameters
    ----------
    precision : Precision
        Λ, batched or not.
    index : sequence of int
        The pixel, one number for every axis of an image; negative ones count from the end.

    Returns
    -------
    Tensor
        ``(*batch, *shape)``.

    Raises
    ------
    TypeError, ValueError
        If `precision` is not a precision, or there is no such pixel.
    """
    precision = real_images(precision)
    unit = torch.zeros_like(precision.diagonal)
    unit[_place(precision, index)] = 1
    return precision.solve(unit)


def _place(precision: Precision, index: Sequence[int]) -> tuple[Any, ...]:
    """The index of a pixel in tensors ``(*batch, *shape)``."""
    shape, pixel = precision.domain.shape, tuple(index)
    if len(pixel) != len(shape) or not all(-n <= i < n for i, n in zip(pixel, shape, strict=True)):
        raise ValueError(f"index must be that of a pixel of images {shape}, got {pixel}")
    return (..., *pixel)


@documented_like(covariance_column)
def correlation_image(
    precision: Precision, index: Sequence[int], *, variance: Tensor | None = None
) -> Tensor:
    r"""The correlations of a pixel with all pixels, :math:`\Sigma_{ij} / \sqrt{\Sigma_{ii} \Sigma_{jj}}`.

    Parameters
    ----------
    variance : Tensor, optional
        The marginal variances, ``(*batch, *shape)``, where they are known; by default those of `marginal_variance`.

    Returns
    -------
    Tensor
        ``(*batch, *shape)``, 1 at the pixel.

    Raises
    ------
    TypeError, ValueError
        If `precision` is not a precision, there is no such pixel, or `variance` has another shape.
    """
    column = covariance_column(precision, index)
    if variance is None:
        variance = marginal_variance(precision).value
    if variance.shape != column.shape:
        raise ValueError(f"variance must have the shape {tuple(column.shape)}, got {tuple(variance.shape)}")
    place = _place(precision, index)
    own = column[place].reshape(*precision.batch, *(1,) * precision.domain.ndim)
    image = column / (own * variance).sqrt()
    image[place] = 1
    return image


@torch.no_grad()
def marginal_variance(
    precision: Precision, *, method: str | None = None, samples: int = 100, seed: int | torch.Generator = 0
) -> Estimate:
    r"""The variances of the pixels, the diagonal of :math:`\Lambda^{-1}`.

    Parameters
    ----------
    precision : Precision
        Λ, batched or not.
    method : {"exact", "sampling"}, optional
        Selected inversion (of a dense factor, its inverse), or an estimate from draws. By default the former, of a
        sparse factor while it takes some seconds: up to 256 x 256 pixels for one image with a neighbourhood of 9 x 9.
    samples : int
        For "sampling": number of draws; the standard error is :math:`\sqrt{2 / \text{samples}}` of the part of a
        variance that is due to later pixels.
    seed : int or torch.Generator
        For "sampling": random numbers.

    Returns
    -------
    Estimate
        Variances ``(*batch, *shape)``, and their standard errors.

    Raises
    ------
    TypeError, ValueError
        If `precision` is not a precision, or `method` or `samples` is wrong.
    """
    precision = real_images(precision)
    if method is not None:
        choice(method, "method", ("exact", "sampling"))
    if method == "exact" or (method is None and _cost(precision) <= _EXACT):
        value = _exact(precision)
        return Estimate(value, torch.zeros_like(value))
    return _sampled(precision, samples, seed)


def _sampled(precision: Precision, samples: int, seed: int | torch.Generator) -> Estimate:
    samples, generator = integer(samples, "samples", minimum=1), seeded_generator(seed)
    inverse = precision.diagonal.reciprocal()
    total, most = torch.zeros_like(inverse), max(1, _CHUNK // max(1, inverse.numel()))
    for start in range(0, samples, most):
        noise = white_noise(precision.domain, min(most, samples - start), precision.batch, generator)
        total += (precision.colour(noise) - inverse * noise).square().sum(0)
    from_later = total / samples
    return Estimate(inverse.square() + from_later, (2 / samples) ** 0.5 * from_later)


def _cost(precision: Precision) -> int:
    """Multiplications of a selected inversion."""
    if not isinstance(precision, SparseCholeskyPrecision):
        return 0
    rows, columns = precision.domain.shape[-2:]
    return math.prod(precision.batch) * rows * columns * len(precision.stencil) * _band(precision)


def _band(precision: SparseCholeskyPrecision) -> int:
    """Return the largest distance, in raster order, of pixels that L connects."""
    rows, columns = precision.domain.shape[-2:]
    channels = precision.domain.size // (rows * columns)
    places = ((t.down * columns + t.right) * channels + t.row - t.column for t in precision.stencil)
    return max(places, default=0)


@functools.singledispatch
def _exact(precision: Precision) -> Tensor:
    """The marginal variances of a precision, ``(*batch, *shape)``."""
    raise NotImplementedError(f"the exact variances of a {type(precision).__name__} are not implemented")


@_exact.register
def _(precision: DiagonalPrecision | IsotropicPrecision) -> Tensor:
    return precision.diagonal.square().reciprocal()


@_exact.register
def _(precision: DenseCholeskyPrecision) -> Tensor:
    diagonal, factor = precision.diagonal, precision.parameters["factor"]
    eye = torch.eye(precision.domain.size, dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)  # L^{-1}
    return inverse.square().sum(-2).reshape(diagonal.shape)


@_exact.register
def _(precision: SparseCholeskyPrecision) -> Tensor:
    parts = [precision.take(k) for k in range(*precision.batch)] if precision.batch else [precision]
    return torch.stack([_selected_inversion(part) for part in parts]).reshape(precision.log_diag.shape)


def _selected_inversion(precision: SparseCholeskyPrecision) -> Tensor:
    """Takahashi's recurrence, with a window of the covariance whose rows and columns are reused cyclically."""
    stencil, weights, diagonal = precision.stencil, precision.weights, precision.diagonal
    diagonal = diagonal.reshape(-1, *diagonal.shape[-2:])
    channels, m = diagonal.shape[0], diagonal.shape[-1]
    inside = torch.ones_like(diagonal)
    weights = weights * outer(inside, inside, stencil, torch.Size())  # zeros where they leave the image
    coefficients, shifts = [], []
    for c in range(channels):  # rows of L^T over its diagonal
        terms = [(k, t) for k, t in enumerate(stencil) if t.column == c]
        shifts.append(
            np.array([(t.down * m + t.right) * channels + t.row - c for _, t in terms], dtype=np.int64)
        )
        row = weights[[k for k, _ in terms]] / diagonal[c]
        coefficients.append(row.flatten(1).T.double().numpy(force=True))
    own = diagonal.movedim(0, -1).flatten().double().numpy(force=True) ** -2.0
    size = _band(precision) + 1
    window, out = np.zeros((size, size)), np.empty_like(own)
    for p in range(len(own) - 1, -1, -1):
        pixel, c = divmod(p, channels)
        slot, later = p % size, (p + shifts[c]) % size
        row = coefficients[c][pixel]
        covariance = -(row @ window[later])
        out[p] = own[p] - row @ covariance[later]
        covariance[slot] = out[p]
        window[slot] = window[:, slot] = covariance
    image = torch.from_numpy(out).reshape(*diagonal.shape[1:], channels).movedim(-1, 0)
    return image.to(precision.weights).reshape(precision.domain.shape)
