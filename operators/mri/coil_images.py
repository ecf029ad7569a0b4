"""The map from the images of a space to the complex images of a scanner's coils, and its transpose."""

from __future__ import annotations

from typing import Any

import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.spaces import DeviceCopies, torch_dtype
from genreg.operators.bridge.tensor_operator import check_space


class CoilImages:
    r"""The map from images to the complex images :math:`S_c x` of the coils, and its transpose.

    Parameters
    ----------
    space : TensorSpace
        Images: real or complex ``(n, m)``, or real ``(2, n, m)``, the real and the imaginary part.
    coils : array, Tensor or None
        Complex sensitivities :math:`S_c`, ``(C, n, m)``; None for one coil of sensitivity one.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns of the image, ``(n, m)``.
    leading : tuple of int
        ``(C,)``, or ``()`` without coils.
    channels : {"real", "complex", "parts"}
        The kind of images of the space.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, or `coils` is not complex.
    ValueError
        If the space or the coils have another shape, or the coils are not finite or zero throughout.
    """

    def __init__(self, space: TensorSpace, coils: Any = None) -> None:
        check_space(space)
        dtype, shape = torch_dtype(space), tuple(space.shape)
        if len(shape) == 2:
            self.channels = "complex" if dtype.is_complex else "real"
        elif len(shape) == 3 and shape[0] == 2 and not dtype.is_complex:
            self.channels = "parts"
        else:
            raise ValueError(
                "`space` must hold images (n, m), real or complex, or real (2, n, m), the real and the imaginary "
                f"part, got {'complex' if dtype.is_complex else 'real'} {shape}"
            )
        self.shape = shape[-2:]
        self._maps = (
            None if coils is None else DeviceCopies(_checked(coils, self.shape).to(dtype.to_complex()))
        )
        self.leading = () if coils is None else (len(coils),)

    def expand(self, t: Tensor) -> Tensor:
        """Map ``(*batch, *space.shape)`` to the images of the coils, ``(*batch, *leading, n, m)``.

        Without coils, real images stay real.
        """
        if self.channels == "parts":
            t = torch.complex(t[..., 0, :, :], t[..., 1, :, :])
        if self._maps is None:
            return t
        return t.unsqueeze(-3) * self._maps(t)

    def combine(self, u: Tensor) -> Tensor:
        """Apply the transpose: complex ``(*batch, *leading, n, m)`` to ``(*batch, *space.shape)``."""
        if self._maps is not None:
            u = (u * self._maps(u).conj()).sum(-3)
        if self.channels == "complex":
            return u
        return u.real if self.channels == "real" else torch.stack([u.real, u.imag], -3)


def _checked(coils: Any, shape: tuple[int, ...]) -> Tensor:
    maps = array(coils, "`coils`").cpu()
    if not maps.is_complex():
        raise TypeError(f"`coils` must be complex sensitivity maps, got {maps.dtype}")
    if maps.ndim != 3 or len(maps) == 0 or tuple(maps.shape[1:]) != shape:
        raise ValueError(f"`coils` must have the shape (C, {shape[0]}, {shape[1]}), got {tuple(maps.shape)}")
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("`coils` must be finite, got NaN or infinite entries")
    if not bool(maps.any()):
        raise ValueError("`coils` must not be zero throughout")
    return maps
