r"""Affine coordinates in which a posterior is nearly standard normal, :math:`z = m + C u` for every image.

In them a kernel takes steps as long in the narrow directions as in the wide ones. All chains of an image share m and C,
which the warm-up learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["METRICS", "Coordinates", "Scatter"]

METRICS = ("identity", "diagonal", "dense")
_PRIOR = 5.0  # draws that the identity counts for in an estimate, as in Stan
_FLOOR = 1e-3  # times the identity is what they say


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
