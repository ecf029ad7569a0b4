r"""Least squares by a few steps of conjugate gradients: a reconstruction to start from."""

from __future__ import annotations

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.jacobians import linearise
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import torch_dtype
from genreg.operators.bridge.translation import to_torch
from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner


@undisturbed
def rough_reconstruction(
    A: odl.Operator, y: Tensor, *, iterations: int = 10, weight: Tensor | None = None
) -> Tensor:
    r"""A few conjugate gradient steps on :math:`A^* A x = A^* y` from zero.

    Stopping early regularises: good enough to start from.

    Parameters
    ----------
    A : odl.Operator
        Operator from X to Y; a non-linear one is replaced by its derivative at zero,
        :math:`A(x) \approx A(0) + A'(0) x`.
    y : Tensor
        Data, ``(B, *Y.shape)``.
    iterations : int
        Steps.
    weight : Tensor, optional
        Weights W >= 0 of the data, which broadcast to y: the steps are on :math:`A^* W A x = A^* W y`.

    Returns
    -------
    Tensor
        ``(B, *X.shape)``.

    References
    ----------
    P. C. Hansen (2010), Discrete inverse problems, doi:10.1137/1.9780898718836, section 6.3.
    """
    forward = to_torch(A)
    if A.is_linear:
        adjoint = forward.adjoint
    else:  # A constant ratio of the weights of the two spaces, which `adjoint` lacks here, makes no difference.
        zero = torch.zeros((len(y), *A.domain.shape), dtype=torch_dtype(A.domain), device=y.device)
        value, forward, adjoint = linearise(forward, zero)
        y = y - value
    weighted = (lambda s: s) if weight is None else (lambda s: weight * s)
    with torch.no_grad():
        b = adjoint(weighted(y))
        # Where the solution is exact but for rounding, a step would run along the null space of A.
        smallest = inner(b, b).sqrt() * (100 * torch.finfo(b.dtype).eps)
        return conjugate_gradients(
            lambda p: adjoint(weighted(forward(p))),
            b,
            lambda x, residual: inner(residual, residual).sqrt() > smallest,
            max_iter=iterations,
        ).x
