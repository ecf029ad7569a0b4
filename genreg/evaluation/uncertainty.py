r"""Whether a predicted uncertainty knows where the errors are, and how probable images are under a Gaussian.

Sparsification removes the pixels of an image in the order of falling uncertainty and follows the error of those that
remain. With pixels :math:`p_1, \dots, p_N` in that order and errors e, the curve at the share
:math:`f = k / N` of removed pixels is

.. math:: s(f) = \sqrt{\frac{1}{N - k} \sum_{i > k} e_{p_i}^2} ,

or the mean of :math:`|e|`. The oracle o(f) removes the largest errors first; random removal leaves the error
:math:`r = s(0)` in expectation. The areas between these curves are

.. math:: \mathrm{AUSE} = \int_0^1 s(f) - o(f) \,\mathrm{d}f \ge 0 , \qquad
          \mathrm{AURG} = \int_0^1 r - s(f) \,\mathrm{d}f .

Both are in the unit of the error. Ilg et al. divide all curves by s(0), so that predictions with different errors can
be compared; Poggi et al. do not.

References
----------
E. Ilg, Ö. Çiçek, S. Galesso, A. Klein, O. Makansi, F. Hutter, T. Brox (2018), Uncertainty estimates and
multi-hypotheses networks for optical flow, ECCV, arXiv:1802.07095.

M. Poggi, F. Aleotti, F. Tosi, S. Mattoccia (2020), On the uncertainty of self-supervised monocular depth estimation,
CVPR, arXiv:2005.06209.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genreg.networks.links import Identity, Link
from genreg.operators import Precision, marginal_variance
from genreg.operators.bridge.arguments import choice, integer
from genreg.operators.bridge.arrays import array

_POWERS = {"rmse": 2, "mae": 1}


@dataclass(frozen=True)
class Sparsification:
    """Sparsification curves of B images, at K shares of removed pixels.

    Attributes
    ----------
    fraction : Tensor
        Shares of removed pixels, ``(K,)``: 0, 1/K, ..., 1 - 1/K.
    error : Tensor
        s, the error of the pixels that remain, ``(B, K)``.
    oracle : Tensor
        o, the same where the largest errors are removed first, ``(B, K)``.
    """

    fraction: Tensor
    error: Tensor
    oracle: Tensor

    @property
    def random(self) -> Tensor:
        """The error of all pixels, which is expected to remain after random removal, ``(B,)``."""
        return self.error[:, 0]

    @property
    def ause(self) -> Tensor:
        """Area under the sparsification error, ``(B,)``: 0 where the order is that of the errors; less is better."""
        return (self.error - self.oracle).mean(1)

    @property
    def aurg(self) -> Tensor:
        """Area under the random gain, ``(B,)``: 0 for a constant uncertainty; more is better."""
        return (self.random[:, None] - self.error).mean(1)


def sparsification(
    error: Any, uncertainty: Any, *, steps: int | None = 50, measure: str = "rmse", normalise: bool = False
) -> Sparsification:
    r"""Compute the sparsification curves of every image, and with them AUSE and AURG.

    Parameters
    ----------
    error : Tensor or array
        Differences of prediction and truth, ``(B, *shape)``, signed or not.
    uncertainty : Tensor or array
        Of the same shape; only its order matters, so standard deviations and variances serve alike. Of equal
        uncertainties none comes first: their pixels count with their mean (squared) error.
    steps : int, optional
        K, the number of equal steps in which pixels are removed, at most that of the pixels; one pixel at a time
        where None. With the default, 2 % in a step, as Poggi et al. have it.
    measure : {"rmse", "mae"}
        Root of the mean square, or mean of the absolute value.
    normalise : bool
        Whether to divide all curves of an image by the error of all its pixels, as Ilg et al. do. An image without
        an error has curves of zeros in either case.

    Returns
    -------
    Sparsification
        In float64. The areas are means over the K steps, which is also the trapezoidal rule if the differences of
        the curves are zero at their end, where no pixel is left.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ, there is no pixel, values are not finite, or a setting is unknown or out of range.
    """
    e, u = (_images(value, name) for value, name in ((error, "error"), (uncertainty, "uncertainty")))
    if e.shape != u.shape:
        raise ValueError(f"uncertainty must have the shape of error, {tuple(e.shape)}, got {tuple(u.shape)}")
    choice(measure, "measure", sorted(_POWERS))
    e, u = e.flatten(1).abs() ** _POWERS[measure], u.flatten(1)
    pixels = e.shape[1]
    steps = pixels if steps is None else integer(steps, "steps", minimum=1, maximum=pixels)
    removed = torch.arange(steps, device=e.device) * pixels // steps
    curves = [_remaining(e, order)[:, removed] ** (1 / _POWERS[measure]) for order in (u, e)]
    if normalise:
        whole = curves[0][:, :1]
        curves = [curve / torch.where(whole > 0, whole, 1.0) for curve in curves]
    return Sparsification(torch.arange(steps, dtype=torch.float64, device=e.device) / steps, *curves)


def _images(value: Any, name: str) -> Tensor:
    """Images ``(B, *shape)`` in float64."""
    t = array(value, name, complex=False)
    if t.ndim < 2 or t.numel() == 0:
        raise ValueError(
            f"{name} must have the shape (B, *shape) with at least one pixel, got {tuple(t.shape)}"
        )
    if not bool(torch.isfinite(t).all()):
        raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(t)).sum())} values that are not")
    return t.double()


def _remaining(e: Tensor, u: Tensor) -> Tensor:
    """Mean of e over the pixels that remain when k have been removed in the order of falling u, ``(B, N)``."""
    u, order = u.sort(1, descending=True)
    e = e.gather(1, order)
    group = torch.zeros_like(order)
    group[:, 1:] = (u[:, 1:] != u[:, :-1]).cumsum(1)
    total = torch.zeros_like(e).scatter_add_(1, group, e)
    size = torch.zeros_like(e).scatter_add_(1, group, torch.ones_like(e))
    e = (total / size.clamp_min(1)).gather(1, group)
    left = torch.arange(e.shape[1], 0, -1, device=e.device)
    return e.flip(1).cumsum(1).flip(1) / left


def log_likelihood(y: Tensor, mean: Tensor, precision: Precision, *, link: Link | None = None) -> Tensor:
    r"""Log-density of images y for which g(y) is Gaussian, :math:`g(y) \sim N(\mu, \Lambda^{-1})`, in nats.

    Parameters
    ----------
    y : Tensor
        Images, ``(*batch, *shape)``: for a batched precision its batch axis comes last, further ones in front.
    mean : Tensor
        μ, in the values of the link, of a shape that broadcasts to that of `y`.
    precision : Precision
        Λ.
    link : Link, optional
        g, by default the identity. Values that it clips count with the density at the clipped value.

    Returns
    -------
    Tensor
        :math:`\log N(g(y); \mu, \Lambda^{-1}) + \sum_p \log g'(y_p)`, ``(*batch,)``, differentiable.

    Raises
    ------
    TypeError, ValueError
        If the precision is none, or the shapes do not fit.
    """
    shape = _checked(mean, precision)
    full = (*precision.batch, *shape)
    if not _extends(y, full) or not _extends(y, tuple(mean.shape)):
        raise ValueError(
            f"y must have the shape (*batch, {', '.join(map(str, shape))}) with the batch axes of mean and precision, "
            f"got {tuple(y.shape)} for {tuple(mean.shape)} and {full}"
        )
    link = Identity() if link is None else link
    density = precision.log_density(link.forward(y) - mean)
    return density + link.log_derivative(y).sum(tuple(range(-len(shape), 0)))


@torch.no_grad()
def image_moments(
    mean: Tensor, precision: Precision, *, link: Link | None = None, nodes: int = 32
) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation of every pixel of :math:`g^{-1}(v)`, :math:`v \sim N(\mu, \Lambda^{-1})`.

    The pixels of v are Gaussian with the variances of `genreg.operators.marginal_variance`, exact for images of
    moderate size; what is left is an integral over one number for every pixel, by Gauss-Hermite quadrature.

    Parameters
    ----------
    mean : Tensor
        μ, ``(*batch, *shape)``.
    precision : Precision
        Λ, with the same batch.
    link : Link, optional
        g, by default the identity.
    nodes : int
        Number of nodes, at least 2; polynomials :math:`g^{-1}` of a degree below it are integrated exactly.

    Returns
    -------
    mean, std : Tensor
        ``(*batch, *shape)``.

    Raises
    ------
    TypeError, ValueError
        If the precision is none, the shapes do not fit, or there are fewer than two nodes.
    """
    full = (*precision.batch, *_checked(mean, precision))
    if tuple(mean.shape) != full:
        raise ValueError(f"mean must have the shape {full} of the precision, got {tuple(mean.shape)}")
    nodes = integer(nodes, "nodes", minimum=2)
    link = Identity() if link is None else link
    std = marginal_variance(precision).value.sqrt()
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    centre = link.inverse(mean)  # close to the mean, so that nothing cancels
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    for point, weight in zip(points.tolist(), (weights / weights.sum()).tolist(), strict=True):
        deviation = link.inverse(mean + point * std) - centre
        first += weight * deviation
        second += weight * deviation.square()
    return centre + first, (second - first.square()).clamp_min(0).sqrt()


def _extends(y: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether tensors of a shape broadcast to that of y."""
    own = tuple(y.shape[y.ndim - len(shape) :]) if y.ndim >= len(shape) else ()
    return len(own) == len(shape) and all(b in (1, a) for a, b in zip(own, shape, strict=True))


def _checked(mean: Tensor, precision: Precision) -> tuple[int, ...]:
    """The shape of an image."""
    if not isinstance(precision, Precision):
        raise TypeError(f"precision must be a genreg.operators.Precision, got {type(precision).__name__}")
    shape = tuple(precision.domain.shape)
    if tuple(mean.shape[mean.ndim - len(shape) :]) != shape:
        raise ValueError(
            f"mean must have the shape (*batch, {', '.join(map(str, shape))}) of the precision, got {tuple(mean.shape)}"
        )
    return shape
