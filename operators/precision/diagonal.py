r"""Precisions with a diagonal matrix: of white noise, and of independent pixels."""

from __future__ import annotations

from abc import abstractmethod

import scipy.sparse
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.arrays import array, fitting
from genreg.operators.bridge.spaces import torch_device, torch_dtype
from genreg.operators.precision.base import Precision, checked_parameter, has_values


class _Entrywise(Precision):
    """A precision with a diagonal matrix, whose logarithm `_log` broadcasts to the images."""

    @property
    @abstractmethod
    def _log(self) -> Tensor: ...

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of L, ``(*batch, *shape)``."""
        return (0.5 * self._log).exp().expand(*self.batch, *self.domain.shape)

    def whiten(self, r: Tensor) -> Tensor:
        r""":math:`L^T r`."""
        return (0.5 * self._log).exp() * r

    unwhiten = whiten

    def colour(self, u: Tensor) -> Tensor:
        r""":math:`L^{-T} u`."""
        return (-0.5 * self._log).exp() * u

    uncolour = colour

    def logdet(self) -> Tensor:
        r""":math:`\log\det\Lambda`, of the shape `batch`."""
        return self._log.expand(*self.batch, *self.domain.shape).sum(self._axes)

    def restrict(self, keep: Tensor) -> DiagonalPrecision:
        r"""The precision whose factor is :math:`L_{UU}` on a set U of pixels, and the identity on the others."""
        log = self._log.expand(*self.batch, *self.domain.shape)
        return DiagonalPrecision(self.domain, torch.where(keep, log, 0))

    def to_scipy(self) -> scipy.sparse.csc_array:
        r""":math:`\Lambda` as a sparse matrix, of a precision that is not batched."""
        self._one()
        entries = self._log.detach().exp().expand(self.domain.shape).flatten().numpy(force=True)
        return scipy.sparse.diags_array(entries, format="csc")


class IsotropicPrecision(_Entrywise):
    r"""One precision for all pixels, :math:`\Lambda = \beta I`.

    Parameters
    ----------
    space : TensorSpace
        Images, real.
    precision : float or Tensor
        β > 0, or one for every sample, ``(B,)``.

    Raises
    ------
    TypeError, ValueError
        If the space is not real, or β is no positive, finite number.
    """

    def __init__(self, space: TensorSpace, precision: float | Tensor) -> None:
        self._check_space(space)
        if not isinstance(precision, Tensor):
            given = array(precision, "precision", complex=False).to(torch_device(space))
            precision = fitting(given, "precision", torch_dtype(space))
        beta = checked_parameter(precision, "precision", space, ())
        if has_values(beta) and not bool((beta > 0).all()):
            raise ValueError(f"precision must be positive, got {float(beta.min())}")
        super().__init__(space, {"precision": beta}, tuple(beta.shape))

    @property
    def _log(self) -> Tensor:
        beta = self.parameters["precision"]
        return beta.log().reshape(*beta.shape, *(1,) * self.domain.ndim)


class DiagonalPrecision(_Entrywise):
    r"""A precision for every pixel, :math:`\Lambda = \operatorname{diag}(e^{\ell})`.

    Parameters
    ----------
    space : TensorSpace
        Images, real.
    log_precision : Tensor
        ℓ, ``(*space.shape)``, or ``(B, *space.shape)``.

    Raises
    ------
    TypeError, ValueError
        If the space is not real, or ℓ is no finite tensor of that shape.
    """

    def __init__(self, space: TensorSpace, log_precision: Tensor) -> None:
        self._check_space(space)
        value = checked_parameter(log_precision, "log_precision", space, tuple(space.shape))
        super().__init__(space, {"log_precision": value}, tuple(value.shape[: -space.ndim]))

    @property
    def _log(self) -> Tensor:
        return self.parameters["log_precision"]
