r"""The exact step in x of a joint problem: the proximal operator of a quadratic data term.

.. math:: \mathrm{prox}(p) = \operatorname*{argmin}_x\ \tfrac12 \|A x - y\|^2 + \tfrac{s}{2} \|x - p\|^2

for any linear ODL operator A, with Euclidean norms of the samples. `data_prox` chooses the method:

* multiplication by numbers pixel by pixel, sampling, and sampling of the Fourier transform: closed forms;
* dense matrices: one singular value decomposition, of :math:`A = U \Sigma V^H`, for all shifts and samples,
  :math:`\mathrm{prox}(p) = p + V \frac{\Sigma}{\Sigma^2 + s} U^H (y - A p)`;
* everything else: conjugate gradients.

A new class of operators needs one registration::

    @teach_data_prox.register(MyOperator)
    def _(A, *, tol, max_iter):
        return SpectralProx(A, A.matrix)
"""

from __future__ import annotations

import functools
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge import arguments
from genreg.operators.bridge.lowered import Step, append_axes
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import Tensors, space_shape, torch_device, torch_dtype, tree_map
from genreg.operators.lowering.building_blocks import constant, number
from genreg.operators.measurements.forward import GaussianMeasurements, Mask
from genreg.operators.mri.fourier import FourierSampling
from genreg.operators.proximal.base import DataProx
from genreg.operators.proximal.iterative import ConjugateGradientProx

__all__ = [
    "ConjugateGradientProx",
    "DataProx",
    "DiagonalProx",
    "FourierProx",
    "ScaledProx",
    "SpectralProx",
    "data_prox",
    "teach_data_prox",
]

_MAX_FACTORED = 2048  # the smaller side of a matrix that is decomposed; beyond, conjugate gradients


@undisturbed
def data_prox(A: odl.Operator, *, tol: float | None = None, max_iter: int = 1000) -> DataProx:
    r"""Return the map :math:`p \mapsto \mathrm{argmin}_x\ \frac12\|Ax - y\|^2 + \frac s2 \|x - p\|^2`.

    Parameters
    ----------
    A : odl.Operator
        Linear operator X -> Y with an adjoint; X is a tensor space or a power of one, real or complex.
    tol : float, optional
        Relative residual at which conjugate gradients stop, where there is no closed form; by default 1e-6 in
        single and 1e-10 in double precision.
    max_iter : int
        Cap on these iterations.

    Returns
    -------
    DataProx
        ``prox(point, y, shift, start=None)``, with one shift per sample; ``prox.reduced(v, shift)``;
        ``prox.check(shift, point, y)`` for the entry points.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If `A` is not linear, or `tol` or `max_iter` are not positive.
    NotImplementedError
        If `A` has no adjoint.
    """
    if tol is not None:
        tol = arguments.number(tol, "`tol`", above=0, below=1)
    max_iter = arguments.integer(max_iter, "`max_iter`", minimum=1)
    again = functools.partial(data_prox, tol=tol, max_iter=max_iter)
    return teach_data_prox(A, tol=tol, max_iter=max_iter).pickled_as(again, A)


@functools.singledispatch
def teach_data_prox(A: Any, *, tol: float | None, max_iter: int) -> DataProx:
    """Return the data prox of `A`, by its class; the registry that a new class of operators is added to."""
    return ConjugateGradientProx(A, tol=tol, max_iter=max_iter)


class DiagonalProx(DataProx):
    r"""The data prox where :math:`A^T A` multiplies every entry of a sample by a number.

    It is exact for small shifts, too: entries that are not measured keep the value of the point.

    Parameters
    ----------
    A : odl.Operator
        Such an operator; the numbers are found by applying :math:`A^T A` to ones.
    """

    def __init__(self, A: Any) -> None:
        super().__init__(A)
        one = torch.ones(space_shape(A.domain), dtype=torch_dtype(A.domain), device=torch_device(A.domain))
        with torch.no_grad():
            gram = self._transpose(self._forward(one))
        self._gram = constant(gram.real if gram.is_complex() else gram)

    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        back = self._transpose(r)
        return back / (self._gram(back) + append_axes(shift, self._ndim))

    def reduced(self, v: Tensor, shift: Step) -> Tensor:  # noqa: D102
        gram, s = self._gram(v), append_axes(self._cast(shift, v), self._ndim)
        return gram * (s / (gram + s)) * v


class FourierProx(DataProx):
    r"""The data prox of sampling the Fourier transform by one coil of sensitivity one.

    There, :math:`A^T A` is a filter, with :math:`h(k) = M(k)` for complex images and :math:`h(k) = (M(k) + M(-k)) /
    2` for real ones, so that :math:`(A^T A + s)^{-1} A^T r = A^T (r / (h + s))`, at the cost of one adjoint.

    Parameters
    ----------
    A : FourierSampling
        Sampling without coils.
    """

    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        return self._transpose(r / (self.operator.gains(r) + append_axes(shift, 1)))


class SpectralProx(DataProx):
    r"""The data prox of a dense matrix, by its singular value decomposition, computed once.

    A product with the matrix and two with the factors per sample, :math:`O(m d)` for m data and d pixels. The
    decomposition is computed in double precision and kept in that of the space. Singular values that are zero to
    rounding are left out, so that small shifts give the projection onto the solutions of :math:`A x = y`.

    Parameters
    ----------
    A : odl.Operator
        Linear operator between spaces that are both real or both complex.
    matrix : Tensor
        What multiplies vectors of the domain, ``(m, d)``.
    axis : int, optional
        The axis of a sample, counted from the end, that the matrix acts along; by default it acts on flattened samples,
        and values of A are vectors.
    """

    def __init__(self, A: Any, matrix: Tensor, *, axis: int | None = None) -> None:
        super().__init__(A)
        dtype, device = torch_dtype(A.domain), torch_device(A.domain)
        U, s, Vh = _decomposed(matrix.to(device), dtype)
        self._left = constant(U.conj().resolve_conj().to(dtype))
        self._right = constant(Vh.conj().resolve_conj().to(dtype))
        self._values = constant(s.to(self._real))
        self._spectrum = s
        self._axis = axis

    @property
    def singular_values(self) -> Tensor:
        """The singular values that are not zero to rounding, in double precision."""
        return self._spectrum

    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        s, step = self._values(r), self._per_sample(shift)
        data = r if self._axis is None else r.movedim(self._axis, -1)  # (..., m)
        return self._from_vectors((data @ self._left(r)) * (s / (s * s + step)) @ self._right(r))

    @torch.no_grad()
    def reduced(self, v: Tensor, shift: Step) -> Tensor:  # noqa: D102
        s, step, right = self._values(v), self._per_sample(self._cast(shift, v)), self._right(v)
        s2 = s * s
        x = v.flatten(-self._ndim) if self._axis is None else v.movedim(self._axis, -1)
        return self._from_vectors((x @ right.mH) * (s2 * (step / (s2 + step))) @ right)

    def _per_sample(self, shift: Step) -> Step:
        return append_axes(shift, 1 if self._axis is None else self._ndim)

    def _from_vectors(self, t: Tensor) -> Tensor:
        if self._axis is None:
            return t.unflatten(-1, space_shape(self.operator.domain))
        return t.movedim(-1, self._axis)

    def _least(self, shift: float) -> float:
        """Refuse a shift that lets the rounding of A x through, amplified to a tenth of x or more."""
        if not len(self._spectrum):
            return 0.0
        square, eps = float(self._spectrum[0]) ** 2, torch.finfo(self._real).eps
        s = self._spectrum / self._spectrum[0]
        amplified = eps * float((s / (s * s + shift / square)).max())
        return eps * square if amplified > 0.1 else 0.0


def _decomposed(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin singular value decomposition without the values that are zero to rounding."""
    M = matrix.to(torch.complex128 if dtype.is_complex else torch.float64)
    eps = torch.finfo(torch.float64).eps * max(M.shape)
    if dtype in (torch.float64, torch.complex128):
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        keep = s > eps * s.max()
        return U[:, keep], s[keep], Vh[keep]
    # For factors in single precision the squared matrix in double precision is exact enough, and several times faster.
    wide = M.shape[0] <= M.shape[1]
    squares, vectors = torch.linalg.eigh(M @ M.mH if wide else M.mH @ M)
    squares, vectors = squares.flip(0), vectors.flip(1)
    keep = squares > eps * squares.max()
    s, vectors = squares[keep].sqrt(), vectors[:, keep]
    return (vectors, s, (vectors.mH @ M) / s[:, None]) if wide else ((M @ vectors) / s, s, vectors.mH)


class ScaledProx(DataProx):
    r"""The data prox of a number times an operator, from that of the operator.

    .. math:: \|c A x - y\|^2 + s \|x - p\|^2 = |c|^2 \left( \|A x - y / c\|^2 + s |c|^{-2} \|x - p\|^2 \right)

    Parameters
    ----------
    A : odl.Operator
        The multiple.
    inner : DataProx
        Of the operator.
    scale : float or complex
        The number c, not zero.
    """

    def __init__(self, A: Any, inner: DataProx, scale: float | complex) -> None:
        super().__init__(A)
        self._inner, self._scale, self._square = inner, scale, abs(scale) ** 2

    @property
    def last_residual(self) -> Tensor | None:  # type: ignore[override]  # that of the inner one, which sets it
        """Relative residuals of the last solve, ``(*batch,)``; None for a closed form."""
        return self._inner.last_residual

    def _correction(self, r: Tensors, shift: Step, guess: Tensor | None) -> Tensor:
        return self._inner._correction(tree_map(lambda t: t / self._scale, r), shift / self._square, guess)

    @torch.no_grad()
    def reduced(self, v: Tensor, shift: Step) -> Tensor:  # noqa: D102
        return self._square * self._inner.reduced(v, shift / self._square)

    def _least(self, shift: float) -> float:
        tiny = torch.finfo(self._real).tiny
        scaled = shift / self._square
        return self._square * (tiny if scaled < tiny else self._inner._least(scaled))


@teach_data_prox.register(odl.ScalingOperator)
@teach_data_prox.register(odl.ZeroOperator)
@teach_data_prox.register(odl.MultiplyOperator)
@teach_data_prox.register(odl.SamplingOperator)
@teach_data_prox.register(Mask)
def _diagonal(A: Any, *, tol: float | None, max_iter: int) -> DataProx:
    return DiagonalProx(A)


@teach_data_prox.register
def _fourier(A: FourierSampling, *, tol: float | None, max_iter: int) -> DataProx:
    if not A.images.leading:
        return FourierProx(A)
    if bool(A.keep.all()):  # a unitary transform: only the sum of the squared sensitivities is left
        return DiagonalProx(A)
    return ConjugateGradientProx(A, tol=tol, max_iter=max_iter)


@teach_data_prox.register
def _gaussian(A: GaussianMeasurements, *, tol: float | None, max_iter: int) -> DataProx:
    if min(A.matrix.shape) > _MAX_FACTORED:
        return ConjugateGradientProx(A, tol=tol, max_iter=max_iter)
    return SpectralProx(A, A.matrix)


@teach_data_prox.register(odl.MatrixOperator)
def _matrix(A: Any, *, tol: float | None, max_iter: int) -> DataProx:
    mixed = torch_dtype(A.domain).is_complex != torch_dtype(A.range).is_complex
    if A.is_sparse or mixed or min(A.matrix.shape) > _MAX_FACTORED:
        return ConjugateGradientProx(A, tol=tol, max_iter=max_iter)
    ndim = len(space_shape(A.domain))
    matrix = A.matrix if isinstance(A.matrix, Tensor) else torch.from_numpy(A.matrix.copy())
    return SpectralProx(A, matrix, axis=A.axis % ndim - ndim)


@teach_data_prox.register(odl.OperatorLeftScalarMult)
@teach_data_prox.register(odl.OperatorRightScalarMult)
def _multiple(A: Any, *, tol: float | None, max_iter: int) -> DataProx:
    scale = number(A.scalar)
    if scale == 0:
        return DiagonalProx(A)
    if isinstance(scale, complex) and not torch_dtype(A.domain).is_complex == torch_dtype(A.range).is_complex:
        return ConjugateGradientProx(A, tol=tol, max_iter=max_iter)
    return ScaledProx(A, teach_data_prox(A.operator, tol=tol, max_iter=max_iter), scale)
