"""Mean and variance of a stream of images, in memory that does not grow with their number."""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators.bridge.complex_parts import squared_modulus


class Moments:
    """Mean and standard deviation over all draws and chains of every sample; of complex images that of |x - mean|.

    Parameters
    ----------
    like : Tensor
        Images ``(B, *X.shape)`` of the kind to come.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque (1983), Algorithms for computing the sample variance,
    doi:10.2307/2683386.
    """

    def __init__(self, like: Tensor) -> None:
        self.count = like.real.new_zeros(len(like), *(1,) * (like.ndim - 1))
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like.real)

    def add(self, images: Tensor, counts: Tensor) -> None:
        """Take in an image of every chain, ``(chains, B, *X.shape)``, where `counts`, ``(chains, B)``, says so."""
        mask = counts.view(*counts.shape, *(1,) * (images.ndim - 2))
        images = torch.where(mask, images, 0.0)
        n = mask.sum(0).to(self.count.dtype)
        mean = images.sum(0) / n.clamp_min(1)
        square = squared_modulus(torch.where(mask, images - mean, 0.0)).sum(0)
        total = (self.count + n).clamp_min(1)
        shift = mean - self.mean
        self.square = self.square + square + squared_modulus(shift) * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = self.count + n

    @property
    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, ``(B, *X.shape)``; NaN of a sample without draws, or for the latter with one."""
        std = (self.square / (self.count - 1).clamp_min(1)).sqrt()
        return torch.where(self.count == 0, torch.nan, self.mean), torch.where(self.count < 2, torch.nan, std)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All there is to store."""
        return {"count": self.count, "mean": self.mean, "square": self.square}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        self.count, self.mean, self.square = tensors["count"], tensors["mean"], tensors["square"]
