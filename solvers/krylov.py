r"""Conjugate gradients, batched."""

from __future__ import annotations

from collections.abc import Callable

import odl
import torch
from torch import Tensor

from genreg.operators import to_torch
from genreg.solvers.line_search import inner

__all__ = ["conjugate_gradient", "rough_reconstruction"]


def conjugate_gradient(
    N: Callable[[Tensor], Tensor], b: Tensor, *, init: Tensor | None = None, iterations: int, tol: float = 0.0
) -> Tensor:
    r"""Solve :math:`N x = b` for every sample of a batch.

    Parameters
    ----------
    N : callable
        Self-adjoint, positive semi-definite, ``(B, *shape)`` to ``(B, *shape)``.
    b : Tensor
        ``(B, *shape)``.
    init : Tensor, optional
        Starting point, by default zero.
    iterations : int
        Steps at most.
    tol : float
        Stop when every sample's residual norm is at most this fraction of ‖b‖.

    Returns
    -------
    Tensor
        ``(B, *shape)``.

    References
    ----------
    M. R. Hestenes, E. Stiefel (1952), Methods of conjugate gradients for solving linear systems,
    doi:10.6028/jres.049.044.
    """
    tiny = torch.finfo(b.dtype).tiny

    def times(step: Tensor, v: Tensor) -> Tensor:
        return step.view(-1, *(1,) * (v.ndim - 1)) * v

    with torch.no_grad():
        x = torch.zeros_like(b) if init is None else init
        r = b if init is None else b - N(x)
        p, rr = r, inner(r, r)
        stop = tol**2 * inner(b, b)
        for _ in range(iterations):
            if bool((rr <= stop).all()):
                break
            Np = N(p)
            alpha = rr / inner(Np, p).clamp_min(tiny)
            x, r = x + times(alpha, p), r - times(alpha, Np)
            rr, old = inner(r, r), rr
            p = r + times(rr / old.clamp_min(tiny), p)
    return x


def rough_reconstruction(A: odl.Operator, y: Tensor, *, iterations: int = 10) -> Tensor:
    r"""A few conjugate gradient steps on :math:`A^* A x = A^* y` from zero.

    Stopping early regularises: good enough to start from.

    Parameters
    ----------
    A : odl.Operator
        Operator from X to Y; a non-linear one is replaced by its derivative at zero, :math:`A(x) \approx A(0)
        + A'(0) x`.
    y : Tensor
        Data, ``(B, *Y.shape)``.
    iterations : int
        Steps.

    Returns
    -------
    Tensor
        ``(B, *X.shape)``.

    References
    ----------
    P. C. Hansen (2010), Discrete inverse problems, doi:10.1137/1.9780898718836, section 6.3.
    """
    if not A.is_linear:
        zero = A.domain.zero()
        y, A = (
            y - to_torch(A)(torch.zeros(A.domain.shape, dtype=y.dtype, device=y.device)),
            A.derivative(zero),
        )
    forward, adjoint = to_torch(A), to_torch(A.adjoint)
    return conjugate_gradient(lambda p: adjoint(forward(p)), adjoint(y), iterations=iterations)
