r"""Approximate posteriors of latent vectors, given observations: densities q(z | y) with draws.

All are made in the coordinates u of the posterior at the start, :math:`z = z_0 + B u`. The logarithm of a Gaussian
density of draws is returned so that its gradient is that of the draws alone: the other part, the score of the
parameters, is zero in the mean, and without it the gradient of the evidence bound has no variance where q is the
posterior ("sticking the landing").

References
----------
G. Roeder, Y. Wu, D. Duvenaud (2017), Sticking the landing: simple, lower-variance gradient estimators for variational
inference, arXiv:1703.09194.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def standard_draws(count: int, like: Tensor) -> Tensor:
    """Standard normal draws ``(count, *like.shape)`` from torch's global generator, in pairs of opposites."""
    half = torch.randn((count + 1) // 2, *like.shape, dtype=like.dtype, device=like.device)
    return torch.cat([half, -half])[:count]


def _log_normal(e: Tensor) -> Tensor:
    return -0.5 * e.square().sum(-1) - 0.5 * e.shape[-1] * math.log(2 * math.pi)


class ApproximatePosterior(ABC):
    """A density q(z | y) of latent vectors for each of N observations."""

    @abstractmethod
    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws z, ``(count, N, p)``, and the logarithm of their density, ``(count, N)``."""

    @property
    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Means ``(N, p)`` and covariances ``(p, p)`` or ``(N, p, p)`` of a Gaussian one."""
        return None


@dataclass(frozen=True)
class Diagonal(ApproximatePosterior):
    """Independent components: mean ``(N, p)``, logarithm of the standard deviations ``(p,)`` or ``(N, p)``."""

    mean: Tensor
    log_std: Tensor

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws, and the logarithm of their density, see `ApproximatePosterior`."""
        z = self.mean + self.log_std.exp() * standard_draws(count, self.mean)
        log_std = self.log_std.detach()
        e = (z - self.mean.detach()) * (-log_std).exp()
        return z, _log_normal(e) - log_std.sum(-1)

    @property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Means and covariances."""
        return self.mean.detach(), torch.diag_embed((2 * self.log_std.detach()).exp())


@dataclass(frozen=True)
class Full(ApproximatePosterior):
    """A full covariance: :math:`z = z_0 + B (m + L e)`, with m ``(N, p)`` and L ``(p, p)`` or ``(N, p, p)``."""

    affine: Any  # z_0 + B u of u, with its log_det
    mean: Tensor
    factor: Tensor

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws, and the logarithm of their density, see `ApproximatePosterior`."""
        noise = standard_draws(count, self.mean)
        u = self.mean + _times(self.factor, noise)
        L = self.factor.detach()
        off = (u - self.mean.detach()).permute(1, 2, 0)  # (N, p, count)
        if L.ndim == 2:  # one factor: all draws of all observations are its columns
            e = torch.linalg.solve_triangular(L, off.movedim(1, 0).flatten(1), upper=False)
            e = e.unflatten(1, (off.shape[0], count)).movedim(0, -1).movedim(1, 0)
        else:
            e = torch.linalg.solve_triangular(L, off, upper=False).permute(2, 0, 1)
        log_det = L.diagonal(dim1=-2, dim2=-1).log().sum(-1) + self.affine.log_det
        return self.affine(u), _log_normal(e) - log_det

    @property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Means and covariances."""
        F = self.affine.basis @ self.factor.detach()
        return self.affine(self.mean.detach()), F @ F.mT


@dataclass(frozen=True)
class Transformed(ApproximatePosterior):
    """A flow T of noise under an affine map: :math:`z = z_0 + B (m + L T(e))`.

    The logarithm of the density is that of the noise less the logarithms of all scales: those of every step of the
    flow, of the diagonal of L, and of B.
    """

    affine: Any
    mean: Tensor
    factor: Tensor
    transform: Any  # with call_and_ladj, as the transforms of zuko have it

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws, and the logarithm of their density with its whole gradient."""
        noise = standard_draws(count, self.mean)
        t, log_scales = self.transform.call_and_ladj(noise)
        u = self.mean + _times(self.factor, t)
        log_det = log_scales + self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + self.affine.log_det
        return self.affine(u), _log_normal(noise) - log_det


def _times(factor: Tensor, e: Tensor) -> Tensor:
    """L e for ``(count, N, p)``."""
    return e @ factor.mT if factor.ndim == 2 else (factor @ e[..., None])[..., 0]
