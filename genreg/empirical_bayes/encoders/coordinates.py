r"""Coordinates in which the posterior of an observation is white, at the start of a fit.

With the mean :math:`z_0` and the covariance :math:`\Sigma_0` of the prior and the curvature H that the observations
have in common (`linearised`), :math:`z = z_0 + B u` with :math:`B B^T = (H + \Sigma_0^{-1})^{-1}`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genreg.empirical_bayes.encoders.linearised import Linearised, is_sufficient, real_data, real_precision
from genreg.empirical_bayes.priors import Prior
from genreg.operators import torch_device, torch_dtype
from genreg.operators.fidelity import Fidelity, GaussianFidelity


class Affine(nn.Module):
    """The map from u to z_0 + B u.

    Parameters
    ----------
    centre : Tensor
        z_0, ``(p,)``.
    basis : Tensor
        B, ``(p, p)``.
    noise : Tensor, optional
        1/σ² of the data, where it is the same for all observations.
    """

    centre: Tensor
    basis: Tensor
    log_det: Tensor
    noise: Tensor

    def __init__(self, centre: Tensor, basis: Tensor, noise: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("basis", basis)
        self.register_buffer("log_det", torch.linalg.slogdet(basis.double()).logabsdet.to(basis))
        self.register_buffer("noise", centre.new_zeros(0) if noise is None else noise)

    def forward(self, u: Tensor) -> Tensor:
        """Return z."""
        return self.centre + u @ self.basis.T


def coordinates(fidelity: Fidelity, prior: Prior) -> tuple[Affine, Linearised]:
    """The coordinates in which the posterior is white for the mean observation, and A at their centre."""
    mean, covariance = prior.moments()
    dtype, device = torch_dtype(prior.space), torch_device(prior.space)
    centre = mean.to(device, dtype)
    seen = Linearised(fidelity.operator, centre.reshape(prior.space.shape))
    curvature = seen.curvature(fidelity)
    precision = curvature + torch.linalg.inv(covariance.to(curvature))
    basis = torch.linalg.inv(torch.linalg.cholesky(precision)).T
    noise = fidelity.inverse_variance[:1].clone() if is_sufficient(fidelity) else None
    return Affine(centre, basis.to(dtype), noise), seen


def encoder_inputs(fidelity: Fidelity, affine: Affine, seen: Linearised, *, scores_only: bool) -> Tensor:
    """What an encoder sees of observations, ``(n, p + d)``: scores in the coordinates, or these, data and noise.

    Each row depends on its observation only, so that a part of the observations gives a part of the rows.
    """
    scores = seen.scores(fidelity) @ affine.basis
    if scores_only:
        return scores
    data = real_data(fidelity.data)
    if not isinstance(fidelity, GaussianFidelity):
        return torch.cat([scores, data], 1)
    root = real_precision(fidelity).sqrt().expand_as(data)
    data = torch.where(root > 0, data, 0.0)  # whatever stands where nothing was measured
    return torch.cat([scores, data, root[:, :1] if fidelity.white else root], 1)
