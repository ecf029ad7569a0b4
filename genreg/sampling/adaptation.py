r"""What chains learn before their draws count: step sizes for every image, and coordinates.

The step size of an image rises while its chains accept more proposals than the kernel works best at, and falls
otherwise, by smaller and smaller amounts (Robbins and Monro). Coordinates :math:`z = m + C u` in which the posterior is
nearly standard normal let a kernel take steps as long in the narrow directions as in the wide ones; all chains of an
image share m and C. They are learnt from the draws of windows of doubling length, after each of which the size is
sought anew, as in Stan.

References
----------
C. Andrieu, J. Thoms (2008), A tutorial on adaptive MCMC, doi:10.1007/s11222-008-9110-y.

B. Carpenter et al. (2017), Stan: a probabilistic programming language, doi:10.18637/jss.v076.i01.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genreg.sampling.kernels.metropolis import Target
from genreg.sampling.random_numbers import RandomNumbers

METRICS = ("identity", "diagonal", "dense")
_PRIOR = 5.0  # draws that the identity counts for in an estimate, as in Stan
_FLOOR = 1e-3  # times the identity is what they say
_FIRST = 25  # iterations of the first window
_POWER = 10  # products with the Hessian


@dataclass(frozen=True)
class Coordinates:
    r"""The map :math:`z = m + C u`.

    Attributes
    ----------
    mean : Tensor
        m, ``(B, d)``.
    factor : Tensor
        C: lower triangular ``(B, d, d)``, or a diagonal ``(B, d)``.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def identity(cls, like: Tensor) -> Coordinates:
        """Z = u, for latent vectors like those in ``(..., B, d)``."""
        zeros = torch.zeros_like(like.reshape(-1, *like.shape[-2:])[0])
        return cls(zeros, torch.ones_like(zeros))

    def decode(self, u: Tensor) -> Tensor:
        """Latent vectors of points u, both ``(chains, B, d)``."""
        return self.mean + self.times(u)

    def encode(self, z: Tensor) -> Tensor:
        """Points u of latent vectors, both ``(chains, B, d)``."""
        r = z - self.mean
        if self.factor.ndim == 2:
            return r / self.factor
        solved = torch.linalg.solve_triangular(self.factor, r.permute(1, 2, 0), upper=False)
        return solved.permute(2, 0, 1)

    def times(self, u: Tensor) -> Tensor:
        """C u."""
        if self.factor.ndim == 2:
            return self.factor * u
        return torch.einsum("bij,cbj->cbi", self.factor, u)

    def transposed(self, gradient: Tensor) -> Tensor:
        r""":math:`C^T g`, which makes a gradient in u of one in z."""
        if self.factor.ndim == 2:
            return self.factor * gradient
        return torch.einsum("bij,cbi->cbj", self.factor, gradient)


class Scatter:
    """Mean and scatter of the draws of a window, around the mean of each chain.

    Chains may lie in different modes, whose distance says nothing about the width of one.

    Parameters
    ----------
    like : Tensor
        Latent vectors, ``(chains, B, d)``.
    dense : bool
        Whether the whole matrix is wanted, or its diagonal.
    """

    def __init__(self, like: Tensor, dense: bool) -> None:
        self.dense = dense
        self.count = 0
        self.mean = torch.zeros_like(like)
        shape = (*like.shape[1:], like.shape[-1]) if dense else like.shape[1:]
        self.square = like.new_zeros(shape)

    def add(self, z: Tensor) -> None:
        """Take in a draw of every chain, ``(chains, B, d)`` (Welford's update)."""
        self.count += 1
        before = z - self.mean
        self.mean = self.mean + before / self.count
        after = z - self.mean
        if self.dense:
            self.square = self.square + torch.einsum("cbi,cbj->bij", before, after)
        else:
            self.square = self.square + (before * after).sum(0)

    def coordinates(self) -> Coordinates:
        """Coordinates in which these draws have about unit covariance."""
        freedom = (self.count - 1) * len(self.mean)
        weight = freedom / (freedom + _PRIOR)
        covariance = weight * self.square / freedom
        floor = _FLOOR * (1 - weight)
        if self.dense:
            eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
            factor, failed = torch.linalg.cholesky_ex(covariance + floor * eye)
            diagonal = torch.diag_embed((covariance.diagonal(dim1=-2, dim2=-1) + floor).sqrt())
            factor = torch.where((failed == 0)[:, None, None], factor, diagonal)
        else:
            factor = (covariance + floor).sqrt()
        return Coordinates(self.mean.mean(0), factor)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All there is to store."""
        return {"count": torch.tensor(self.count), "mean": self.mean, "square": self.square}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self.count = int(tensors["count"])
        self.mean, self.square = tensors["mean"], tensors["square"]


def adapted(log_size: Tensor, probability: Tensor, iteration: int, target: float) -> Tensor:
    """Logarithms of the step sizes after an iteration (counted from 0) that had these probabilities of acceptance."""
    return log_size + (iteration + 1) ** -0.6 * (probability - target)


def window_ends(burn_in: int) -> list[int]:
    """The iterations after which coordinates are learnt; the first entry is where the first window begins."""
    first, last = int(0.15 * burn_in), int(0.9 * burn_in)
    if last - first < _FIRST:
        return []
    ends, length = [first], _FIRST
    while ends[-1] + 3 * length <= last:  # the next but one would fit as well
        ends.append(ends[-1] + length)
        length *= 2
    return [*ends, last]


def largest_curvature(target: Target, u: Tensor, gradient: Tensor, random: RandomNumbers) -> Tensor:
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
    random : RandomNumbers
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
