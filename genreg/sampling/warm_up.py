r"""What chains learn before their draws count: step sizes for every image, and coordinates.

The step size of an image rises while its chains accept more proposals than the kernel works best at, and falls
otherwise, by smaller and smaller amounts (Robbins and Monro). Coordinates are learnt from the draws of windows of
doubling length, after each of which the size is sought anew, as in Stan.

References
----------
C. Andrieu, J. Thoms (2008), A tutorial on adaptive MCMC, doi:10.1007/s11222-008-9110-y.

B. Carpenter et al. (2017), Stan: a probabilistic programming language, doi:10.18637/jss.v076.i01.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.sampling.kernels.metropolis import Target
from genreg.sampling.random_numbers import Random

__all__ = ["adapted", "largest_curvature", "window_ends"]

_FIRST = 25  # turns of the first window
_POWER = 10  # products with the Hessian


def adapted(log_size: Tensor, probability: Tensor, turn: int, target: float) -> Tensor:
    """Logarithms of the step sizes after a turn (counted from 0) that had these probabilities of acceptance."""
    return log_size + (turn + 1) ** -0.6 * (probability - target)


def window_ends(burn_in: int) -> list[int]:
    """The turns after which coordinates are learnt; the first entry is where the first window begins."""
    first, last = int(0.15 * burn_in), int(0.9 * burn_in)
    if last - first < _FIRST:
        return []
    ends, length = [first], _FIRST
    while ends[-1] + 3 * length <= last:  # the next but one would fit as well
        ends.append(ends[-1] + length)
        length *= 2
    return [*ends, last]


def largest_curvature(target: Target, u: Tensor, gradient: Tensor, random: Random) -> Tensor:
    r"""The largest modulus of an eigenvalue of the Hessian at each point, ``(N,)``, by power iteration.

    The products with the Hessian are differences of gradients, so that energies need one derivative only. How far apart
    they are taken is relative to the points and to the width :math:`1 / \sqrt{L}` of the density, for the curvature L
    found so far, and what rounding makes of a gradient is no curvature.

    Parameters
    ----------
    target : Target
        The density.
    u, gradient : Tensor
        Points and gradients there, ``(N, d)``.
    random : Random
        For the first vector.

    Returns
    -------
    Tensor
        1 where none is found: the energy is flat, or not finite nearby.
    """
    eps, tiny = torch.finfo(u.dtype).eps, torch.finfo(u.dtype).tiny
    norm, slope = (torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (u, gradient))
    v = torch.nn.functional.normalize(random.normal(u), dim=1)
    length = torch.ones_like(norm)
    for _ in range(_POWER):
        width = torch.where((length > tiny) & torch.isfinite(length), length.rsqrt(), 1.0)
        step = eps**0.5 * (norm + width)
        product = (target(u + step * v)[1] - gradient) / step
        length = torch.linalg.vector_norm(product, dim=1, keepdim=True)
        v = product / length.clamp_min(tiny)
    found = (length > eps * slope / step) & torch.isfinite(length)
    return torch.where(found, length, 1.0)[:, 0]
