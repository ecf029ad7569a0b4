r"""Posteriors of Gaussian graphical models in closed form, for linear observations with Gaussian noise.

With :math:`y = A z + \varepsilon`, noise of the precision :math:`W = \operatorname{diag}(1 / \sigma_i^2)`, and
component k of the prior :math:`N(m_k, \Lambda_k^{-1})`,

.. math::

    z \mid y, k &\sim N(\hat z_k, P_k^{-1}), \qquad P_k = A^T W A + \Lambda_k , \qquad
    \hat z_k = m_k + P_k^{-1} A^T W r_k , \qquad r_k = y - A m_k , \\
    -2 \log p(y \mid k) &= r_k^T W r_k - (\hat z_k - m_k)^T P_k (\hat z_k - m_k) + \log\det P_k - \log\det\Lambda_k
    + \textstyle\sum_i \log 2 \pi \sigma_i^2 ,

and :math:`p(k \mid y) \propto w_k\, p(y \mid k)`. Data that were not measured have :math:`1 / \sigma_i^2 = 0`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genreg.empirical_bayes.encoders.linearised import Linearised, real_data, real_precision
from genreg.empirical_bayes.graphs.model import GaussianGraphicalModel
from genreg.empirical_bayes.graphs.sufficient_statistics import Statistics
from genreg.empirical_bayes.result import check_observations
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.fidelity import GaussianFidelity


class ExactPosterior:
    r"""The posterior :math:`p(z \mid y)` of every observation, and its evidence :math:`\log p(y)`.

    All is dense and of double precision, for up to some thousand unknowns; larger images have
    `operators.GaussianPosterior`. Where the noise differs between observations, each has a matrix of its own.

    Parameters
    ----------
    fidelity : GaussianFidelity
        The observations, n of them, by a linear operator A: Z -> Y.
    prior : GaussianGraphicalModel
        The prior, K components.
    linearised : Linearised, optional
        The matrix of A, where it is known from before.

    Attributes
    ----------
    log_evidence : Tensor
        :math:`\log p(y)`, ``(n,)``.
    responsibilities : Tensor
        :math:`p(k \mid y)`, ``(n, K)``.

    Raises
    ------
    TypeError, ValueError
        If the fidelity is not Gaussian or not that of a linear operator on the space of the prior, or the prior is no
        Gaussian graphical model.
    """

    def __init__(
        self,
        fidelity: GaussianFidelity,
        prior: GaussianGraphicalModel,
        linearised: Linearised | None = None,
    ) -> None:
        check_exact(fidelity, prior)
        self.fidelity, self.prior = fidelity, prior
        space, A = prior.space, fidelity.operator
        if linearised is None:
            linearised = Linearised(A, prior.factor.new_zeros(space.shape))
        J = linearised.jacobian.double()
        y = real_data(fidelity.data).double()
        W = real_precision(fidelity).double()  # (n or 1, m)
        residual = y[:, None] - prior.means @ J.T  # (n, K, m)
        weighted = W[:, None] * residual
        H = (J.T * W[:, None]) @ J
        self._factor = torch.linalg.cholesky(H[:, None] + prior.matrices)  # (n or 1, K, p, p)
        pulled = weighted @ J  # (n, K, p)
        half = _solve(self._factor, pulled)
        self._correction = _solve(self._factor, half, transposed=True)
        logdet = 2 * self._factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(prior.matrices)
        misfit = (weighted * residual).sum(-1) - half.square().sum(-1)
        normaliser = fidelity.log_normaliser.double()[:, None]
        joint = prior.weights.log() - 0.5 * (misfit + logdet) - normaliser  # (n, K)
        self.log_evidence = joint.logsumexp(1)
        self.responsibilities = joint.softmax(1)

    @property
    def component_means(self) -> Tensor:
        r""":math:`\hat z_k`, ``(n, K, p)``."""
        return self.prior.means + self._correction

    def _covariances(self) -> Tensor:
        """``(n or 1, K, p, p)``."""
        return torch.cholesky_inverse(self._factor)

    @property
    def mean(self) -> Tensor:
        """Posterior means, ``(n, *Z.shape)``, in the data type of Z."""
        return self._images((self.responsibilities[..., None] * self.component_means).sum(1))

    @property
    def covariance(self) -> Tensor:
        """Posterior covariances, ``(n, p, p)``; or ``(p, p)`` where it is that of all, for K = 1 and shared noise."""
        within = self._covariances()
        if self.prior.components == 1:
            return within[0, 0] if len(within) == 1 else within[:, 0]
        r, means = self.responsibilities, self.component_means
        off = means - (r[..., None] * means).sum(1, keepdim=True)
        return torch.einsum("nk,nkij->nij", r, within.expand(len(r), *within.shape[1:])) + torch.einsum(
            "nk,nki,nkj->nij", r, off, off
        )

    @property
    def std(self) -> Tensor:
        """Posterior standard deviations, ``(n, *Z.shape)``."""
        variance = self.covariance.diagonal(dim1=-2, dim2=-1)
        return self._images(variance.sqrt().expand(len(self.fidelity.data), -1))

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Draws of every posterior, ``(n, observations, *Z.shape)``."""
        n, generator = integer(n, "n", minimum=1), seeded_generator(seed)
        r, means = self.responsibilities, self.component_means
        check_memory((n, *means.shape), means.dtype, "n", n)
        k = torch.multinomial(r.cpu(), n, replacement=True, generator=generator).T.to(r.device)  # (n, N)
        noise = torch.randn(n, *means.shape, generator=generator, dtype=means.dtype).to(means.device)
        draws = means + torch.stack([_solve(self._factor, part, transposed=True) for part in noise])
        chosen = draws.gather(2, k[..., None, None].expand(*k.shape, 1, means.shape[-1]))[:, :, 0]
        return self._images(chosen)

    def statistics(self) -> Statistics:
        """Expected sufficient statistics, averaged over the observations."""
        return Statistics.of_gaussians(self.responsibilities, self.component_means, self._covariances())

    def _images(self, z: Tensor) -> Tensor:
        space = self.prior.space
        return z.to(self.prior.factor.dtype).unflatten(-1, space.shape)


def check_exact(fidelity: Any, prior: Any) -> None:
    """Raise an error unless the posterior has a closed form."""
    if not isinstance(fidelity, GaussianFidelity):
        raise TypeError(f"fidelity must be a GaussianFidelity, got {type(fidelity).__name__}")
    if not isinstance(prior, GaussianGraphicalModel):
        raise TypeError(f"prior must be a GaussianGraphicalModel, got {type(prior).__name__}")
    if not fidelity.operator.is_linear:
        raise ValueError(f"A must be linear, got {fidelity.operator!r}")
    check_observations(fidelity, prior)


def _solve(factor: Tensor, b: Tensor, *, transposed: bool = False) -> Tensor:
    """Triangular solves with factors ``(n or 1, K, p, p)`` for ``(n, K, p)``."""
    L = factor.mT if transposed else factor
    if len(factor) == 1:  # one factor for all observations: they are its columns
        return torch.linalg.solve_triangular(L[0], b.permute(1, 2, 0), upper=transposed).permute(2, 0, 1)
    return torch.linalg.solve_triangular(L, b[..., None], upper=transposed)[..., 0]
