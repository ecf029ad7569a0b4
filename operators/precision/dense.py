r"""A precision with a dense Cholesky factor, for images of moderate size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import scipy.sparse
import torch
from odl.core.space.base_tensors import TensorSpace
from torch import Tensor

from genreg.operators.bridge.modes import without_autocast
from genreg.operators.bridge.spaces import torch_dtype
from genreg.operators.precision.base import Precision, checked_parameter, has_values

_ROUNDING = 8  # units of rounding, relative to the diagonal, up to which an entry of L L^T counts as zero


class DenseCholeskyPrecision(Precision):
    r"""A precision :math:`\Lambda = L L^T` with any lower triangular matrix L on images flattened in C order.

    With :math:`N` pixels, a product or a triangular solve costs :math:`O(N^2)`, and so does the memory. All methods
    have derivatives of any order in L and the argument. `of` makes it from :math:`\Lambda`.

    Parameters
    ----------
    space : TensorSpace
        Images, real.
    factor : Tensor
        L, ``(N, N)`` with ``N = space.size``, or ``(B, N, N)``, with a positive diagonal; its strict upper triangle is
        ignored. `with_parameters`, which is for the inside of a loop, takes a lower triangular one as it is.

    Raises
    ------
    TypeError, ValueError
        If the space is not real, or L is no finite tensor of that shape, or its diagonal is not positive.
    """

    def __init__(self, space: TensorSpace, factor: Tensor) -> None:
        self._check_space(space)
        L = checked_parameter(factor, "factor", space, (space.size, space.size)).tril()
        if has_values(L):
            diagonal = L.detach().diagonal(dim1=-2, dim2=-1)
            if not bool((diagonal > 0).all()):
                raise ValueError(f"factor must have a positive diagonal, got {float(diagonal.min())}")
        super().__init__(space, {"factor": L}, tuple(L.shape[:-2]))

    @classmethod
    def of(cls, space: TensorSpace, matrix: Tensor, name: str = "matrix") -> Self:
        r"""Make it from :math:`\Lambda`, by a Cholesky decomposition; differentiable in the matrix.

        Parameters
        ----------
        space : TensorSpace
            Images, real, of N pixels.
        matrix : Tensor
            :math:`\Lambda`, ``(N, N)``, or ``(B, N, N)``, symmetric and positive definite. It is decomposed in its own
            data type where that is the more exact one, and then converted to that of the space.
        name : str
            How errors call it.

        Returns
        -------
        DenseCholeskyPrecision

        Raises
        ------
        TypeError, ValueError
            If the space is not real, the matrix is no finite tensor of that shape, or not symmetric (up to half of
            the digits of its largest entry) or not positive definite.
        """
        cls._check_space(space)
        checked_parameter(matrix, name, space, (space.size, space.size))
        if has_values(matrix):
            _check_symmetric(matrix.detach(), name)
        exact = matrix.to(torch.promote_types(matrix.dtype, torch_dtype(space)))
        exact = 0.5 * (exact + exact.mT)
        L, failed = torch.linalg.cholesky_ex(exact)
        if has_values(matrix) and bool(failed.any()):
            smallest = float(torch.linalg.eigvalsh(exact.detach()).min())
            raise ValueError(f"{name} must be positive definite, got the smallest eigenvalue {smallest:.3g}")
        return cls(space, L)

    @property
    def _matrix(self) -> Tensor:
        """L, ``(*batch, N, N)``."""
        return self.parameters["factor"]

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of L, ``(*batch, *shape)``."""
        return self._matrix.diagonal(dim1=-2, dim2=-1).reshape(*self.batch, *self.domain.shape)

    def _on_columns(self, act: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        """Apply `act` to images as columns of one matrix per sample, so that L is read only once."""
        shape = np.broadcast_shapes(t.shape, (*self.batch, *self.domain.shape))
        lead = math.prod(shape[: len(shape) - len(self.batch) - self.domain.ndim])
        columns = t.expand(shape).reshape(lead, *self.batch, self.domain.size).movedim(0, -1)
        with without_autocast():
            return act(columns).movedim(-1, 0).reshape(shape).contiguous()  # act: (*batch, N, lead)

    def whiten(self, r: Tensor) -> Tensor:
        r""":math:`L^T r`."""
        return self._on_columns(lambda columns: self._matrix.mT @ columns, r)

    def unwhiten(self, u: Tensor) -> Tensor:
        r""":math:`L u`."""
        return self._on_columns(lambda columns: self._matrix @ columns, u)

    def colour(self, u: Tensor) -> Tensor:
        r""":math:`L^{-T} u`, by a triangular solve."""
        return self._on_columns(lambda c: torch.linalg.solve_triangular(self._matrix.mT, c, upper=True), u)

    def uncolour(self, b: Tensor) -> Tensor:
        r""":math:`L^{-1} b`, by a triangular solve."""
        return self._on_columns(lambda c: torch.linalg.solve_triangular(self._matrix, c, upper=False), b)

    def logdet(self) -> Tensor:
        r""":math:`\log\det\Lambda = 2 \sum_p \log L_{pp}`, of the shape `batch`."""
        return 2 * self.diagonal.log().sum(self._axes)

    def restrict(self, keep: Tensor) -> DenseCholeskyPrecision:
        r"""The precision whose factor is :math:`L_{UU}` on a set U of pixels, and the identity on the others."""
        inside = keep.flatten()
        eye = torch.eye(len(inside), dtype=self._matrix.dtype, device=self._matrix.device)
        return self.with_parameters(factor=torch.where(inside[:, None] & inside, self._matrix, eye))

    def to_scipy(self) -> scipy.sparse.csc_array:
        r""":math:`\Lambda` as a sparse matrix, of a precision that is not batched.

        Entries that are zero up to rounding, :math:`|\Lambda_{ij}| \le 8 \epsilon \sqrt{\Lambda_{ii} \Lambda_{jj}}`
        with the ε of the data type, are left out: so the zeros of a matrix given to `of` are found again.
        """
        self._one()
        L = self._matrix.detach().cpu()
        precise = L.double()
        matrix = (precise @ precise.mT).numpy(force=True)
        root = np.sqrt(matrix.diagonal())
        matrix[np.abs(matrix) <= _ROUNDING * torch.finfo(L.dtype).eps * np.outer(root, root)] = 0
        return scipy.sparse.csc_array(matrix.astype(L.numpy(force=True).dtype))


def _check_symmetric(matrix: Tensor, name: str) -> None:
    """Raise ValueError unless the matrices are symmetric, up to half of the digits of their largest entries."""
    differences = (matrix - matrix.mT).abs().amax((-2, -1)) / matrix.abs().amax((-2, -1)).clamp_min(
        torch.finfo(matrix.dtype).tiny
    )
    if bool((differences > torch.finfo(matrix.dtype).eps ** 0.5).any()):
        raise ValueError(
            f"{name} must be symmetric, got entries that differ from those of its transpose by up to "
            f"{float(differences.max()):.1e} of the largest entry"
        )
