r"""Conjugate gradients in the whitened variable of a precision.

Systems with :math:`\Lambda + R`, where :math:`\Lambda = L L^T` and R is positive semidefinite, are solved for
:math:`w = L^T x`, where the matrix is :math:`I + L^{-1} R L^{-T} \ge I`. So the norm of a residual there bounds the
error of x in the norm of :math:`\Lambda + R`, that is in standard deviations of the Gaussian with this precision,
whatever the scaling of the problem.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner
from genreg.operators.precision.base import Precision


def whitened_solve(
    precision: Precision, rest: Callable[[Tensor], Tensor], b: Tensor, *, tol: float, max_iter: int
) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`(\Lambda + R) x = b` for every sample.

    Parameters
    ----------
    precision : Precision
        Λ, one for every sample or one for all.
    rest : callable
        The action of R on ``(*batch, *shape)``.
    b : Tensor
        ``(*batch, *shape)``, the last batch axis that of the samples.
    tol : float
        Root mean square error, in standard deviations :math:`\sqrt{e^T (\Lambda + R) e / N}`, at most.
    max_iter : int
        Iterations at most.

    Returns
    -------
    tuple of Tensor
        The solutions, and bounds on their errors, ``(*batch,)``.

    Warns
    -----
    RuntimeWarning
        If a sample does not reach `tol`.
    """
    shape, ndim = b.shape, precision.domain.ndim
    flat, root = (-1, *shape[len(shape) - ndim :]), math.sqrt(precision.size)

    def normal(w: Tensor) -> Tensor:
        return w + precision.uncolour(rest(precision.colour(w.reshape(shape)))).reshape(w.shape)

    r = precision.uncolour(b).reshape(flat)

    def error_of(residual: Tensor) -> Tensor:
        return inner(residual, residual).sqrt() / root

    small = (error_of(r) <= tol).view(-1, *(1,) * ndim)
    found = conjugate_gradients(
        normal, torch.where(small, 0, r), lambda w, residual: error_of(residual) > tol, max_iter=max_iter
    )
    w, error = found.x, error_of(torch.where(small, r, found.residual))
    if bool((error > tol).any()):
        warnings.warn(
            f"conjugate gradients ended with an error of up to {float(error.max()):.1e} standard deviations > tol = "
            f"{tol:.1e} after max_iter = {max_iter} iterations",
            RuntimeWarning,
            stacklevel=4,
        )
    return precision.colour(w.reshape(shape)), error.reshape(shape[: len(shape) - ndim])
