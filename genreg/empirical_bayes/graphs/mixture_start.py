"""A mixture of Gaussians to start from."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["mixture_of"]


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
