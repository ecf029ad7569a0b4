r"""Forward operators besides tomography and blur: random Gaussian measurements, sampling, and normalisation.

All are linear ODL operators :math:`A : X \to Y` that lower to batched torch, with exact adjoints in the inner
products of the two spaces. Spaces may be numpy- or pytorch-backed, real or complex, on the CPU or on CUDA.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import odl
import torch
from numpy.typing import ArrayLike
from odl.core.space.base_tensors import TensorSpace
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from genreg.operators.blur import Blur, blur
from genreg.operators.bridge import to_element, to_tensor, to_torch, torch_device, torch_dtype, weight
from genreg.operators.spaces import Tensors, is_stacked, space_shape, tree_map
from genreg.operators.tensor_operator import TensorOperator, check_space

__all__ = [
    "Blur",
    "GaussianMeasurements",
    "Mask",
    "blur",
    "gaussian_measurements",
    "mask",
    "normalised",
]


class GaussianMeasurements(TensorOperator):
    """Multiplication by a dense matrix made by `gaussian_measurements`; use that function.

    Parameters
    ----------
    space : TensorSpace
        Domain.
    matrix : Tensor
        Matrix of shape ``(m, space.size)``, of the dtype and on the device of the space.
    """

    def __init__(self, space: TensorSpace, matrix: Tensor) -> None:
        super().__init__(space, _vectors(space, matrix.shape[0]))
        self._matrix = matrix

    @property
    def matrix(self) -> Tensor:
        """The matrix, of shape ``(m, domain.size)``."""
        return self._matrix

    def forward(self, t: Tensor) -> Tensor:
        """Measure a batch of images: ``(*batch, *shape)`` to ``(*batch, m)``."""
        batch = t.shape[: t.ndim - self.domain.ndim]
        return t.reshape(*batch, self._matrix.shape[1]) @ self._matrix.T

    def transpose(self, s: Tensor) -> Tensor:
        """Apply the transpose: ``(*batch, m)`` to ``(*batch, *shape)``."""
        return (s @ self._matrix).reshape(*s.shape[:-1], *self.domain.shape)


def gaussian_measurements(space: TensorSpace, m: int, *, seed: int | torch.Generator) -> GaussianMeasurements:
    r"""Return m random measurements :math:`y = M x` with independent entries :math:`M_{ij} \sim N(0, 1/m)`.

    Parameters
    ----------
    space : TensorSpace
        Images; the matrix acts on them in C order.
    m : int
        Number of measurements.
    seed : int or torch.Generator
        Seed of the entries, which are drawn on the CPU in double precision: a seed gives one matrix for all
        backends, devices and, up to rounding, precisions.

    Returns
    -------
    GaussianMeasurements
        Operator from `space` to `odl.rn(m)` (`odl.cn(m)` for complex images) of the same dtype, backend and
        device.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, or `m` or `seed` are of the wrong type.
    ValueError
        If `m` is not positive or `seed` is negative.

    References ---------- A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017). Compressed sensing using
    generative models. ICML, PMLR 70, 537-546. arXiv:1703.03208
    """
    check_space(space)
    if isinstance(m, bool) or not isinstance(m, int | np.integer):
        raise TypeError(f"`m` must be an integer, got {m!r}")
    if m <= 0:
        raise ValueError(f"`m` must be positive, got {m}")
    generator = _generator(seed)
    matrix = torch.randn(int(m), space.size, generator=generator, dtype=torch.float64) / math.sqrt(m)
    return GaussianMeasurements(space, matrix.to(torch_device(space), torch_dtype(space)))


class Mask(TensorOperator):
    """Sampling made by `mask`; use that function.

    Parameters
    ----------
    space : TensorSpace
        Domain.
    keep : Tensor
        Boolean, of the shape of the space.
    """

    def __init__(self, space: TensorSpace, keep: Tensor) -> None:
        super().__init__(space, _vectors(space, int(keep.sum())))
        self._keep = keep
        self._index = keep.flatten().nonzero()[:, 0].to(torch_device(space))

    @property
    def keep(self) -> Tensor:
        """The mask, True where a pixel is measured."""
        return self._keep

    def forward(self, t: Tensor) -> Tensor:
        """Take the measured pixels: ``(*batch, *shape)`` to ``(*batch, k)``."""
        batch = t.shape[: t.ndim - self.domain.ndim]
        return t.reshape(*batch, self.domain.size).index_select(-1, self._index)

    def transpose(self, s: Tensor) -> Tensor:
        """Put samples into images that are zero elsewhere: ``(*batch, k)`` to ``(*batch, *shape)``."""
        image = s.new_zeros(*s.shape[:-1], self.domain.size).index_copy(-1, self._index, s)
        return image.reshape(*s.shape[:-1], *self.domain.shape)

    def fill(self, y: Any) -> Any:
        """Return the image with the samples `y` where they belong and zeros elsewhere, for display.

        Parameters
        ----------
        y : element of the range
            Samples.

        Returns
        -------
        element of the domain
            The image. The adjoint differs from it by the weight of the space, the cell volume.
        """
        with torch.no_grad():
            return to_element(self.domain, self.transpose(to_tensor(self.range.element(y))))


def mask(space: TensorSpace, keep: ArrayLike | Tensor) -> Mask:
    """Return the operator that samples the pixels where `keep` is True, as for inpainting.

    Its range is `odl.rn(k)`, with k the number of pixels kept, and not the space of images: the data have k
    entries, so that a noise level, or the discrepancy principle, counts no pixels that were never measured.
    ``mask(...).fill(y)`` puts data back into an image.

    Parameters
    ----------
    space : TensorSpace
        Images.
    keep : array or Tensor of bool
        Of the shape of the space; at least one entry must be True. Samples are in C order.

    Returns
    -------
    Mask
        Operator from `space` to `odl.rn(k)` (`odl.cn(k)` for complex images) of the same dtype, backend and
        device.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, or `keep` is not boolean.
    ValueError
        If `keep` is of another shape or False throughout.
    """
    check_space(space)
    if isinstance(keep, Tensor):
        given = keep.detach().cpu()
    else:
        given = np.asarray(keep.data if hasattr(keep, "space") else keep)
        given = torch.from_numpy(given.copy()) if given.dtype == bool else given
    if not isinstance(given, Tensor) or given.dtype != torch.bool:
        raise TypeError(f"`keep` must be boolean, got {getattr(given, 'dtype', type(keep).__name__)}")
    if tuple(given.shape) != tuple(space.shape):
        raise ValueError(
            f"`keep` must have the shape {tuple(space.shape)} of the space, got {tuple(given.shape)}"
        )
    if not given.any():
        raise ValueError("`keep` must be True somewhere, got False throughout")
    return Mask(space, given)


def normalised(A: odl.Operator, *, seed: int | torch.Generator = 0) -> odl.Operator:
    r"""Return :math:`A / \|A\|`, where the norm is the Euclidean one of the samples, as in the paper below.

    This is the norm of the matrix that maps samples to samples, whatever the inner products of the spaces;
    for constant weights it is :math:`\sqrt{w_X / w_Y}` times the norm between the spaces.

    Parameters
    ----------
    A : odl.Operator
        Linear operator.
    seed : int or torch.Generator
        Seed of the starting point of the iteration.

    Returns
    -------
    odl.Operator
        The scalar multiple of `A`, with an attribute ``norm_estimate``, the norm of `A`.

    Raises
    ------
    TypeError
        If `A` is not an ODL operator.
    ValueError
        If `A` is not linear, is zero, or gives NaN or infinite values.

    Notes ----- The norm is found by the Lanczos method on :math:`M^H M`, which takes the best estimate from
    all the vectors of a power iteration, to a relative error of at most 1e-8 in double and 1e-5 in single
    precision.

    References ---------- M. A. G. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021). Regularising inverse
    problems with generative machine learning models. arXiv:2107.11191
    """
    if not isinstance(A, odl.Operator):
        raise TypeError(f"`A` must be an ODL operator, got {type(A).__name__}")
    if not A.is_linear:
        raise ValueError(f"`A` must be linear, got {A!r}")
    norm = _euclidean_norm(A, _generator(seed))
    if not math.isfinite(norm):
        raise ValueError(f"`A` must have finite values, got a norm of {norm}")
    if norm == 0.0:
        raise ValueError("`A` must not be zero, got an operator of norm 0")
    result = (1.0 / norm) * A
    result.norm_estimate = norm
    return result


def _euclidean_norm(A: odl.Operator, generator: torch.Generator, max_iter: int = 300) -> float:
    """Return the largest singular value of the matrix of samples."""
    forward, backward = to_torch(A), to_torch(A.adjoint)
    outer, inner = weight(A.range), weight(A.domain)
    start = _random(A.domain, generator)

    def gram(v: Tensor) -> Tensor:
        data = _weigh(torch.div, forward(_unpack(v, start)), outer)
        return _pack(_weigh(torch.mul, backward(data), inner))

    with torch.no_grad():
        v = _pack(start)
        rtol = 1e-5 if v.dtype in (torch.float32, torch.complex64) else 1e-8
        value, error = _lanczos(gram, v / v.norm(), rtol, max_iter)
    if error > rtol * value:
        warnings.warn(
            f"the norm of the operator is known to a relative error of {0.5 * error / value:.1e} only",
            RuntimeWarning,
            stacklevel=3,
        )
    return math.sqrt(max(value, 0.0))


def _lanczos(
    matrix: Callable[[Tensor], Tensor], v: Tensor, rtol: float, max_iter: int
) -> tuple[float, float]:
    """Return the largest eigenvalue of a positive semidefinite map and a bound of its error."""
    size = v.numel()
    basis = v.new_empty(min(16, size), size)
    basis[0] = v
    diagonal: list[float] = []
    off: list[float] = []
    value, error = 0.0, math.inf
    for k in range(min(max_iter, size)):
        w = matrix(basis[k])
        diagonal.append(float(torch.vdot(basis[k], w).real))
        if not math.isfinite(diagonal[-1]):
            return math.nan, 0.0
        known = basis[: k + 1]
        for _ in range(2):  # once more, since rounding spoils the first
            w = w - (known.conj() @ w) @ known
        norm = float(w.norm())
        values, vectors = eigh_tridiagonal(diagonal, off, select="i", select_range=(k, k))
        value, error = float(values[-1]), norm * abs(float(vectors[-1, -1]))
        if error <= rtol * value or k + 1 == size:
            return value, min(error, rtol * value)
        if k + 1 == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[k + 1] = w / norm
        off.append(norm)
    return value, error


def _random(space: Any, generator: torch.Generator) -> Tensors:
    if not is_stacked(space):
        return tuple(_random(part, generator) for part in space.spaces)
    dtype = torch_dtype(space)
    draw = torch.float64 if dtype.is_floating_point else torch.complex128
    return torch.randn(space_shape(space), generator=generator, dtype=draw).to(torch_device(space), dtype)


def _weigh(function: Callable[[Tensor, Any], Tensor], t: Tensors, w: float | Tensor | tuple) -> Tensors:
    return tree_map(function, t, w) if isinstance(w, tuple) else function(t, w)


def _pack(t: Tensors) -> Tensor:
    """All entries in one vector."""
    return torch.cat([_pack(part) for part in t]) if isinstance(t, tuple) else t.flatten()


def _unpack(v: Tensor, like: Tensors) -> Tensors:
    """Inverse of `_pack`."""
    if isinstance(like, Tensor):
        return v.reshape(like.shape)
    sizes = [_pack(part).numel() for part in like]
    return tuple(_unpack(part, item) for part, item in zip(v.split(sizes), like, strict=True))


def _vectors(space: TensorSpace, size: int) -> TensorSpace:
    """Return the unweighted space of vectors that goes with `space`."""
    return odl.tensor_space(size, dtype=space.dtype_identifier, impl=space.impl, device=space.device)


def _generator(seed: Any) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"`seed` must be an integer or a torch.Generator, got {seed!r}")
    if seed < 0:
        raise ValueError(f"`seed` must be non-negative, got {seed}")
    return torch.Generator().manual_seed(int(seed))
