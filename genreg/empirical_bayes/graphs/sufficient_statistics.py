r"""What posteriors say about the Gaussian components of a prior: expected sufficient statistics, their worth, a start.

The complete data (z, k) of n observations would say how large a precision is as n numbers drawn from it say. What is
missing makes that less. Where only a share ρ of the variance of z is known (posterior means vary by ρ times what z
does), the information about its precision is ρ² of that of complete data; where a component is likely by r only, it is
:math:`\mathrm{E} r^2 / \mathrm{E} r`. `Statistics.worth` puts both together. An information criterion that counted n
would keep edges that the observations do not show: once in the prior, they are in the posteriors as well.

References
----------
T. A. Louis (1982), Finding the observed information matrix when using the EM algorithm,
doi:10.1111/j.2517-6161.1982.tb01203.x (the missing information).
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    r"""Averages over observations of posterior expectations, of K components.

    With :math:`r_k(z)` the probability that z comes from component k, and :math:`\bar r_k, \bar z_k` its posterior mean
    and that of z weighted with it:

    Attributes
    ----------
    weight : Tensor
        :math:`\mathrm{E}\, r_k`, ``(K,)``, adding up to 1.
    first : Tensor
        :math:`\mathrm{E}\, r_k z`, ``(K, p)``.
    second : Tensor
        :math:`\mathrm{E}\, r_k z z^T`, ``(K, p, p)``.
    explained : Tensor
        :math:`\mathrm{E}\, \bar r_k \bar z_k \bar z_k^T`, ``(K, p, p)``: the part of the second moment that posterior
        means have.
    certain : Tensor
        :math:`\mathrm{E}\, \bar r_k^2`, ``(K,)``.
    """

    weight: Tensor
    first: Tensor
    second: Tensor
    explained: Tensor
    certain: Tensor

    @classmethod
    def of_draws(cls, z: Tensor, responsibilities: Tensor) -> Statistics:
        """Those of draws ``(S, N, p)`` of N posteriors, with the probabilities ``(S, N, K)`` of their components.

        The means of few draws vary more than posterior means, unless they come in pairs of opposites: `explained` is
        then somewhat too large.
        """
        z, r = z.double(), responsibilities.double()
        count, n, _ = z.shape
        sums = torch.einsum("snk,snp->knp", r, z) / count  # of each posterior
        second = torch.einsum("snk,snp,snq->kpq", r, z, z) / (count * n)
        mean_r = r.mean(0).T  # (K, N)
        explained = (sums / mean_r.clamp_min(1e-30)[..., None]).mT @ sums / n
        return cls(mean_r.mean(1), sums.mean(1), second, explained, mean_r.square().mean(1))

    @classmethod
    def of_gaussians(cls, responsibilities: Tensor, means: Tensor, covariances: Tensor) -> Statistics:
        """Those of N posteriors that are mixtures: probabilities ``(N, K)``, means ``(N, K, p)``, covariances.

        The covariances are ``(N, K, p, p)``, or ``(1, K, p, p)`` where they are the same for all.
        """
        r, means, covariances = responsibilities.double(), means.double(), covariances.double()
        n, shared = len(r), len(covariances) == 1
        weighted = (r[..., None] * means).movedim(1, 0)  # (K, N, p)
        explained = weighted.mT @ means.movedim(1, 0) / n
        within = (
            r.mean(0)[:, None, None] * covariances[0]
            if shared
            else torch.einsum("nk,nkpq->kpq", r, covariances) / n
        )
        return cls(r.mean(0), weighted.mean(1), explained + within, explained, r.square().mean(0))

    def lerp(self, other: Statistics, rate: float) -> Statistics:
        """(1 - rate) times these plus rate times the others."""
        return Statistics(*(torch.lerp(a, b.to(a), rate) for a, b in zip(self, other, strict=True)))

    def moments(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """Second moments about `means` ``(K, p)`` of the components, ``(K, p, p)``, and their explained parts."""
        weight = self.weight[:, None, None]
        shift = self.first[:, :, None] * means[:, None, :]
        about = weight * means[:, :, None] * means[:, None, :] - shift - shift.mT
        return (self.second + about) / weight, (self.explained + about) / weight

    def worth(self, n: int, second: Tensor, explained: Tensor) -> Tensor:
        """Numbers of complete observations that n observations are worth for each precision, ``(K,)``, at least 1."""
        known = torch.linalg.solve(second, explained)  # the shares ρ are its eigenvalues
        share = torch.einsum("kij,kji->k", known, known) / known.shape[-1]
        return (n * self.certain * share).clamp(min=1.0, max=float(n))


class _Mixture(NamedTuple):
    weights: Tensor
    means: Tensor
    matrices: Tensor


def mixture_of(z: Tensor, covariance: Tensor, components: int, seed: int) -> _Mixture:
    """A mixture of Gaussians that fits vectors ``(n, p)``, each known up to a covariance, by scikit-learn.

    That covariance ``(p, p)`` is added to those of the components that fit the vectors themselves.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    points = z.detach().double().numpy(force=True)
    scale = float(points.var(0).mean())
    found = GaussianMixture(components, reg_covar=1e-3 * scale, n_init=5, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start
        found.fit(points)
    weights, means, spread = map(torch.from_numpy, (found.weights_, found.means_, found.covariances_))
    matrices = torch.linalg.inv(spread + covariance.double().cpu())
    return _Mixture(weights, means, 0.5 * (matrices + matrices.mT))
