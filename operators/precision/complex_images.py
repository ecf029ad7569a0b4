r"""Precisions of complex images, by those of their real and imaginary parts."""

from __future__ import annotations

from typing import Any, Self

import odl
import scipy.sparse
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.complex_parts import from_channels, to_channels
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.bridge.spaces import torch_dtype
from genreg.operators.precision.base import Precision
from genreg.operators.precision.diagonal import IsotropicPrecision


def channel_space(space: StackedSpace) -> Any:
    """The space ``odl.rn((2, n, m))`` of real and imaginary parts of the images of a complex space ``(n, m)``."""
    return odl.rn(
        (2, *space.shape),
        dtype=str(torch_dtype(space).to_real()).removeprefix("torch."),
        impl=space.impl,
        device=space.device,
    )


def isotropic_precision(space: StackedSpace, beta: float | Tensor) -> Precision:
    """The precision β of every real number of an image, of complex ones in both parts."""
    if not torch_dtype(space).is_complex:
        return IsotropicPrecision(space, beta)
    return ComplexPrecision(space, IsotropicPrecision(channel_space(space), beta))


class ComplexPrecision(Precision):
    r"""A precision :math:`\Lambda : X \to X` of complex images, by that of their parts as the channels of real ones.

    With :math:`C x = (\operatorname{Re} x, \operatorname{Im} x)` and a precision :math:`\Lambda_2 = L L^T` of images of
    two channels, :math:`\Lambda = C^{-1} \Lambda_2 C`. It is linear over the real numbers, not the complex ones, unless
    the Gaussian is circular; inner products are the real parts of Hermitian ones, and densities those on
    :math:`\mathbb{R}^{2 N}`. White noise has variance 1 in each part.

    Parameters
    ----------
    space : TensorSpace
        X, complex, ``(n, m)``.
    channels : Precision
        :math:`\Lambda_2`, on real images ``(2, n, m)`` of the same precision, batched or not; matrices, variances and
        conditional distributions are taken of it.

    Raises
    ------
    TypeError, ValueError
        If the space is not complex, or the precision not one of real images of two channels of this size.

    References
    ----------
    T. J. Deveney et al. (2025), Bayesian MRI reconstruction with structured uncertainty distributions, for sparse
    Cholesky factors of complex images.
    """

    def __init__(self, space: TensorSpace, channels: Precision) -> None:
        if not isinstance(space, TensorSpace) or not torch_dtype(space).is_complex:
            raise TypeError(f"space must be a complex tensor space, got {space!r}")
        if not isinstance(channels, Precision):
            raise TypeError(f"channels must be a Precision, got {type(channels).__name__}")
        wanted = (2, *space.shape), torch_dtype(space).to_real()
        if (tuple(channels.domain.shape), torch_dtype(channels.domain)) != wanted:
            raise ValueError(
                f"channels must be a precision of images {wanted[0]} of {wanted[1]}, got one on {channels.domain!r}"
            )
        super().__init__(space, channels.parameters, channels.batch)
        self.channels = channels

    def with_parameters(self, **parameters: Tensor) -> Self:
        """The precision of the same kind with other parameters, which are not checked, for use inside loops."""
        new = super().with_parameters(**parameters)
        new.channels = self.channels.with_parameters(**parameters)
        return new

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of L, that of the real part in the real part, ``(*batch, *shape)``."""
        return from_channels(self.channels.diagonal)

    def whiten(self, r: Tensor) -> Tensor:
        r""":math:`L^T r`."""
        return from_channels(self.channels.whiten(to_channels(r)))

    def unwhiten(self, u: Tensor) -> Tensor:
        r""":math:`L u`."""
        return from_channels(self.channels.unwhiten(to_channels(u)))

    def colour(self, u: Tensor) -> Tensor:
        r""":math:`L^{-T} u`."""
        return from_channels(self.channels.colour(to_channels(u)))

    def uncolour(self, b: Tensor) -> Tensor:
        r""":math:`L^{-1} b`."""
        return from_channels(self.channels.uncolour(to_channels(b)))

    def logdet(self) -> Tensor:
        r""":math:`\log\det\Lambda`, of the shape `batch`."""
        return self.channels.logdet()

    def quadratic(self, r: Tensor) -> Tensor:
        r""":math:`r^T \Lambda r`, ``(*batch,)``."""
        return self.channels.quadratic(to_channels(r))

    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        r"""Draws of :math:`N(0, \Lambda^{-1})`, ``(n, *batch, *shape)``, see `Precision.sample`."""
        return from_channels(self.channels.sample(n, generator))

    def restrict(self, keep: Tensor) -> ComplexPrecision:
        r"""The precision whose factor is :math:`L_{UU}` on a set U of pixels, and the identity on the others."""
        return ComplexPrecision(self.domain, self.channels.restrict(keep.expand(2, *keep.shape)))

    def to_dense(self) -> Tensor:
        r""":math:`\Lambda_2` as a matrix, ``(*batch, 2 N, 2 N)``: real parts, then imaginary ones."""
        return self.channels.to_dense()

    def to_scipy(self) -> scipy.sparse.csc_array:
        r""":math:`\Lambda_2` as a sparse matrix, of a precision that is not batched."""
        return self.channels.to_scipy()


def real_images(precision: Any) -> Precision:
    """Return a precision if it is one of real images.

    Raises
    ------
    TypeError
        If it is none, or one of complex images, whose parts have variances of their own.
    """
    if not isinstance(precision, Precision):
        raise TypeError(f"precision must be a Precision, got {type(precision).__name__}")
    if isinstance(precision, ComplexPrecision):
        raise TypeError(
            "precision must be one of real images, such as precision.channels, got one of complex"
        )
    return precision
