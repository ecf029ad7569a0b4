r"""Forward operators besides tomography and blur: random Gaussian measurements, sampling, and normalisation.

All are linear ODL operators :math:`A : X \to Y` that lower to batched torch, with exact adjoints in the inner
products of the two spaces. Spaces may be numpy- or pytorch-backed, real or complex, on the CPU or on CUDA.
"""

from __future__ import annotations

import math
from typing import Any

import odl
import torch
from numpy.typing import ArrayLike
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import boolean_mask, check_memory
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.bridge.tensor_operator import TensorOperator, check_space
from genreg.operators.linear.norm import operator_norm
from genreg.operators.measurements.convolution import Blur, blur

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


@undisturbed
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

    References
    ----------
    A. Bora, A. Jalal, E. Price, A. G. Dimakis (2017). Compressed sensing using
    generative models. ICML, PMLR 70, 537-546. arXiv:1703.03208
    """
    check_space(space)
    m, generator = integer(m, "`m`", minimum=1), seeded_generator(seed, name="`seed`")
    check_memory((m, space.size), torch.float64, "`m`", m)
    matrix = torch.randn(m, space.size, generator=generator, dtype=torch.float64) / math.sqrt(m)
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
        return self._image_of(y)


@undisturbed
def mask(space: TensorSpace, keep: ArrayLike | Tensor) -> Mask:
    """Return the operator that samples the pixels where `keep` is True, as for inpainting.

    Its range is `odl.rn(k)`, with k the number of pixels kept, and not the space of images: noise levels and the
    discrepancy principle then refer to the measured pixels only. ``mask(...).fill(y)`` puts data back into an image.

    Parameters
    ----------
    space : TensorSpace
        Images.
    keep : array or Tensor
        Of bools, or zeros and ones; of the shape of the space, or one that broadcasts to it, such as ``(m,)`` for a
        mask of columns. At least one entry must be True. Samples are in C order.

    Returns
    -------
    Mask
        Operator from `space` to `odl.rn(k)` (`odl.cn(k)` for complex images) of the same dtype, backend and
        device.

    Raises
    ------
    TypeError
        If `space` is not a tensor space of floating type, or `keep` holds neither bools nor numbers.
    ValueError
        If `keep` is of another shape, holds other numbers than 0 and 1 or is False throughout.
    """
    check_space(space)
    return Mask(space, boolean_mask(keep, tuple(space.shape), "`keep`"))


@undisturbed
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

    See Also
    --------
    genreg.operators.linear.norm.operator_norm : the norm itself, to a relative error of 1e-8 (single precision 1e-5).

    References
    ----------
    M. A. G. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021). Regularising inverse problems with generative
    machine learning models. arXiv:2107.11191
    """
    norm = operator_norm(A, weighted=False, seed=seed)
    if not math.isfinite(norm):
        raise ValueError(f"`A` must have finite values, got a norm of {norm}")
    if norm == 0.0:
        raise ValueError("`A` must not be zero, got an operator of norm 0")
    result = (1.0 / norm) * A
    result.norm_estimate = norm
    return result


def _vectors(space: TensorSpace, size: int) -> TensorSpace:
    """Return the unweighted space of vectors with the data type, backend and device of `space`."""
    return odl.tensor_space(size, dtype=space.dtype_identifier, impl=space.impl, device=space.device)
