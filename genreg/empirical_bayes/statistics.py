"""Expected sufficient statistics of Gaussian components, as averages over observations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Statistics"]


class Statistics(NamedTuple):
    r"""Averages over observations i of the posterior expectations of :math:`r_k(z_i) (1, z_i, z_i z_i^T)`.

    :math:`r_k(z)` is the probability that z comes from component k.

    Attributes
    ----------
    weight : Tensor
        ``(K,)``, adding up to 1.
    first : Tensor
        ``(K, p)``.
    second : Tensor
        ``(K, p, p)``.
    """

    weight: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of_draws(cls, z: Tensor, responsibilities: Tensor) -> Statistics:
        """Those of draws ``(N, p)`` with the probabilities ``(N, K)`` of their components."""
        z, r = z.double(), responsibilities.double() / len(z)
        weighted = r.T[:, :, None] * z  # (K, N, p)
        return cls(r.sum(0), weighted.sum(1), weighted.mT @ z)

    @classmethod
    def of_gaussians(cls, mean: Tensor, covariance: Tensor) -> Statistics:
        """Those of one component, for posteriors N(mean, covariance), ``(N, p)`` and ``(p, p)`` or ``(N, p, p)``."""
        mean, covariance = mean.double(), covariance.double()
        shared = covariance if covariance.ndim == 2 else covariance.mean(0)
        second = mean.T @ mean / len(mean) + shared
        return cls(mean.new_ones(1), mean.mean(0, keepdim=True), second[None])

    def lerp(self, other: Statistics, rate: float) -> Statistics:
        """(1 - rate) times these plus rate times the others."""
        return Statistics(*(torch.lerp(a, b.to(a), rate) for a, b in zip(self, other, strict=True)))
