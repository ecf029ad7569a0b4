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


def mixture_of(z: Tensor, components: int, seed: int) -> _Mixture:
    """A mixture of Gaussians that fits vectors ``(n, p)``, by scikit-learn's expectation maximisation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    points = z.detach().double().cpu().numpy()
    scale = float(points.var(0).mean())
    found = GaussianMixture(components, reg_covar=1e-3 * scale, n_init=5, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start
        found.fit(points)
    weights, means, matrices = map(torch.from_numpy, (found.weights_, found.means_, found.precisions_))
    return _Mixture(weights, means, 0.5 * (matrices + matrices.mT))
