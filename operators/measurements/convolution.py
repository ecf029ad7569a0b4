r"""Blurring: convolution with a kernel under four boundary conditions, with exact adjoints.

.. math:: (A x)_i = \sum_j k_j\, x_{i + c - j}

with the centre :math:`c` of the kernel; the boundary condition gives a meaning to indices beyond the edges.
All four are computed by a fast Fourier transform of the continued image; the transpose adds the values beyond the
edges to the pixels that they were continued from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arguments import choice
from genreg.operators.bridge.arrays import array, check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator, check_space

Boundary = Literal["periodic", "symmetric", "reflect", "zero"]

_BOUNDARIES = ("periodic", "symmetric", "reflect", "zero")


class Blur(TensorOperator):
    """A convolution made by `blur`; use that function.

    Parameters
    ----------
    space : TensorSpace
        Domain and range.
    kernel : ndarray
        The kernel, with as many axes as the space.
    boundary : {"periodic", "symmetric", "reflect", "zero"}
        How the image continues beyond its edges.
    """

    def __init__(self, space: TensorSpace, kernel: np.ndarray, boundary: str) -> None:
        super().__init__(space, space)
        from scipy.fft import next_fast_len  # slow to import

        self._kernel, self._boundary = kernel, boundary
        self._axes = tuple(range(-space.ndim, 0))
        self._complex = torch_dtype(space).is_complex
        centre = [size // 2 for size in kernel.shape]
        # Samples beyond the edges that the result depends on, per axis: on the left and on the right.
        self._margins = [(size - 1 - c, c) for size, c in zip(kernel.shape, centre, strict=True)]
        if boundary == "periodic":
            self._length = tuple(space.shape)
            kernel = np.roll(_wrap(kernel, space.shape), [-c for c in centre], range(space.ndim))
        else:
            self._length = tuple(
                next_fast_len(n + size - 1, real=True)
                for n, size in zip(space.shape, kernel.shape, strict=True)
            )
        device = torch_device(space)
        self._sources = [
            torch.from_numpy(_continued(np.arange(-left, n + right), n, boundary)).to(device)
            for n, (left, right) in zip(space.shape, self._margins, strict=True)
        ]
        transform = torch.fft.fftn if self._complex else torch.fft.rfftn
        spectrum = transform(torch.from_numpy(np.ascontiguousarray(kernel)), s=self._length)
        self._spectrum = spectrum.to(device, torch_dtype(space).to_complex())
        self._conjugate = self._spectrum.conj().resolve_conj()

    @property
    def kernel(self) -> np.ndarray:
        """The kernel in double precision, with its centre at index ``size // 2`` of every axis."""
        return self._kernel

    @property
    def boundary(self) -> str:
        """How the image continues beyond its edges."""
        return self._boundary

    def forward(self, t: Tensor) -> Tensor:
        """Blur a batch of images ``(*batch, *shape)``."""
        if self._boundary == "periodic":
            return self._filter(t, self._spectrum)
        if self._boundary == "zero":
            t = torch.nn.functional.pad(t, [pad for margins in self._margins[::-1] for pad in margins])
        else:
            for axis, source in zip(self._axes, self._sources, strict=True):
                t = t.index_select(axis, source)
        t = self._filter(t, self._spectrum)
        for axis, n, (left, right) in zip(self._axes, self.domain.shape, self._margins, strict=True):
            t = t.narrow(axis, left + right, n)
        return t

    def transpose(self, s: Tensor) -> Tensor:
        """Apply the (conjugate) transpose to a batch ``(*batch, *shape)``."""
        if self._boundary == "periodic":
            return self._filter(s, self._conjugate)
        pads = [pad for left, right in self._margins[::-1] for pad in (left + right, 0)]
        s = self._filter(torch.nn.functional.pad(s, pads), self._conjugate)
        for axis, n, (left, right), source in zip(
            self._axes, self.domain.shape, self._margins, self._sources, strict=True
        ):
            if self._boundary == "zero":
                s = s.narrow(axis, left, n)
            else:
                shape = list(s.shape)
                shape[axis] = n
                s = s.new_zeros(shape).index_add(axis, source, s.narrow(axis, 0, left + n + right))
        return s

    def _filter(self, t: Tensor, spectrum: Tensor) -> Tensor:
        if self._complex:
            return torch.fft.ifftn(
                torch.fft.fftn(t, s=self._length, dim=self._axes) * spectrum, dim=self._axes
            )
        transform = torch.fft.rfftn(t, s=self._length, dim=self._axes) * spectrum
        return torch.fft.irfftn(transform, s=self._length, dim=self._axes)


@undisturbed
def blur(
    space: TensorSpace, kernel_or_std: float | Sequence[float] | ArrayLike, *, boundary: Boundary
) -> Blur:
    r"""Return the convolution :math:`(Ax)_i = \sum_j k_j\, x_{i + c - j}` as an ODL operator on `space`.

    Parameters
    ----------
    space : TensorSpace
        Images: `odl.uniform_discr`, `odl.rn` or `odl.cn`; domain and range.
    kernel_or_std : float, sequence of floats, or array
        A number, or one per axis of a space of two or more axes: standard deviation, **in pixels**, of a
        Gaussian that is cut off at four standard deviations and normalised to sum one. An array with as many
        axes as the space, of any size: the kernel :math:`k` itself, taken as it is, with its centre :math:`c`
        at index ``size // 2``, as in `scipy.ndimage.convolve`.
    boundary : {"periodic", "symmetric", "reflect", "zero"}
        How the image continues beyond its edges, named as in `numpy.pad`: "symmetric" mirrors at the edge of
        the last pixel (``c b a | a b c | c b a``), "reflect" at its centre (``c b | a b c | b a``).

    Returns
    -------
    Blur
        The operator; it works by fast Fourier transforms, at a cost that hardly depends on the kernel.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, or the kernel is no array of numbers.
    ValueError
        If the standard deviation is not positive and finite or absurdly large, the kernel is empty, of another number
        of axes, not finite or complex on a real space, or `boundary` is unknown.

    Examples
    --------
    >>> import odl
    >>> A = blur(odl.rn(5), [0.5, 0.0, 0.5], boundary="zero")
    >>> print(A([0, 0, 1, 0, 0]))
    [ 0. ,  0.5,  0. ,  0.5,  0. ]
    """
    check_space(space)
    choice(boundary, "`boundary`", _BOUNDARIES)
    values = array(kernel_or_std, "`kernel_or_std`").numpy(force=True)
    values = values.astype(complex if np.iscomplexobj(values) else float)
    if values.ndim == 0 or (space.ndim > 1 and values.shape == (space.ndim,)):
        if np.iscomplexobj(values) or not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(
                f"`kernel_or_std`, the standard deviation of a blur, must be positive and finite, got {kernel_or_std!r}"
            )
        values = np.broadcast_to(values, space.ndim)
        check_memory([1 + 8 * s for s in values], torch.float64, "`kernel_or_std`", kernel_or_std)
        values = _gaussian(values)
    if values.ndim != space.ndim or values.size == 0:
        raise ValueError(
            f"`kernel_or_std`, the kernel of a blur, must have {space.ndim} axes and entries, got shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("`kernel_or_std`, the kernel of a blur, must be finite, got NaN or infinite entries")
    if np.iscomplexobj(values) and not torch_dtype(space).is_complex:
        raise ValueError(
            "`kernel_or_std`, the kernel of a blur, must be real on a real space, got a complex one"
        )
    return Blur(space, values, boundary)


def _gaussian(std: np.ndarray) -> np.ndarray:
    """Return the normalised Gaussian kernel, an outer product over the axes."""
    kernel = np.ones(())
    for s in std:
        radius = max(1, math.ceil(4 * s))
        line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / s) ** 2)
        kernel = np.multiply.outer(kernel, line / line.sum())
    return kernel


def _wrap(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Add up the entries of the kernel that fall on the same pixel of a periodic image."""
    for axis, n in enumerate(shape):
        size = kernel.shape[axis]
        wrapped = np.zeros((*kernel.shape[:axis], n, *kernel.shape[axis + 1 :]), kernel.dtype)
        index = [slice(None)] * kernel.ndim
        for start in range(0, size, n):
            index[axis] = slice(start, start + n)
            part = kernel[tuple(index)]
            index[axis] = slice(0, part.shape[axis])
            wrapped[tuple(index)] += part
        kernel = wrapped
    return kernel


def _continued(index: np.ndarray, n: int, boundary: str) -> np.ndarray:
    """Return the pixel that each index, also beyond the edges, refers to."""
    if boundary == "symmetric":
        index = index % (2 * n)
        return np.where(index < n, index, 2 * n - 1 - index)
    if boundary == "reflect" and n > 1:
        index = index % (2 * n - 2)
        return np.where(index < n, index, 2 * n - 2 - index)
    return index % n
