"""Complex images as real ones of two channels, real and imaginary part."""

from __future__ import annotations

import torch
from torch import Tensor


def to_channels(x: Tensor) -> Tensor:
    """Return complex images ``(*batch, n, m)`` as real ones, ``(*batch, 2, n, m)``."""
    return torch.stack((x.real, x.imag), -3)


def from_channels(x: Tensor) -> Tensor:
    """Return real images ``(*batch, 2, n, m)`` as complex ones, ``(*batch, n, m)``."""
    return torch.complex(*x.unbind(-3))


def squared_modulus(x: Tensor) -> Tensor:
    """Return the squares of real numbers, or |x|^2 of complex ones, with derivatives of any order where x = 0, too."""
    return torch.view_as_real(x).square().sum(-1) if x.is_complex() else x.square()
