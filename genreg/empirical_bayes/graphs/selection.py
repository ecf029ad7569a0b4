r"""Precisions with given zeros, by maximum likelihood: covariance selection, batched over the patterns of zeros.

Of the precisions Λ that are zero outside of a pattern E (a graph on the components, with the diagonal),

.. math:: \min_\Lambda\; f(\Lambda) = -\log\det\Lambda + \operatorname{tr}(S \Lambda)
          \quad \text{with} \quad \Lambda_{ij} = 0 \text{ for } (i, j) \notin E

gives the one under which data with the second moment S are most likely, n f / 2 their negative log-likelihood up to a
constant. f is convex, its minimiser is where :math:`(\Lambda^{-1})_{ij} = S_{ij}` on E. Newton's method finds it: with
:math:`W = \Lambda^{-1}` the Hessian is :math:`D \mapsto W D W` restricted to E, so that a step takes some products of
matrices (conjugate gradients), and never a matrix on the entries of Λ.

References
----------
A. P. Dempster (1972), Covariance selection, Biometrics 28, doi:10.2307/2528966.

J. Dahl, L. Vandenberghe, V. Roychowdhury (2008), Covariance selection for nonchordal graphs via chordal embedding,
doi:10.1080/10556780802102693 (Newton's method and conjugate gradients for it).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number
from genreg.operators.linear.conjugate_gradient import conjugate_gradients, inner

_INNER = 50  # steps of conjugate gradients in one step of Newton's method, at most
_HALVINGS = 30
_FORCING = 0.03  # relative residual of a direction
_LARGEST = 1e7  # entry of the precision of correlations from which the likelihood counts as unbounded


class Selected(NamedTuple):
    """Precisions of given patterns.

    Attributes
    ----------
    matrix : Tensor
        Λ, ``(*batch, p, p)``.
    value : Tensor
        f(Λ), ``(*batch,)``.
    converged : Tensor
        Whether the decrement of Newton's method has come below the tolerance, ``(*batch,)``. It cannot where the
        likelihood is unbounded, with fewer observations than a pattern needs.
    """

    matrix: Tensor
    value: Tensor
    converged: Tensor


def check_moment(S: Any, name: str) -> Tensor:
    """Return a second moment or covariance as a tensor of double precision, ``(p, p)``.

    Raises
    ------
    TypeError, ValueError
        If it is no real, square, symmetric, finite matrix with a positive diagonal.
    """
    if not isinstance(S, Tensor) or not S.is_floating_point():
        raise TypeError(f"{name} must be a real tensor (p, p), got {type(S).__name__}")
    if S.ndim != 2 or S.shape[0] != S.shape[1]:
        raise ValueError(f"{name} must be a square matrix (p, p), got the shape {tuple(S.shape)}")
    if not bool(torch.isfinite(S).all()):
        raise ValueError(f"{name} must be finite, got {int((~torch.isfinite(S)).sum())} entries that are not")
    S = S.detach().double()
    scale = S.diagonal()
    if not bool((scale > 0).all()):
        raise ValueError(f"{name} must have a positive diagonal, got {float(scale.min()):g}")
    if not torch.allclose(S, S.T, rtol=0, atol=1e-4 * float(scale.max())):
        raise ValueError(
            f"{name} must be symmetric, got entries that differ by {float((S - S.T).abs().max()):g}"
        )
    return 0.5 * (S + S.T)


@torch.no_grad()
def covariance_selection(
    second_moment: Tensor, support: Tensor, *, tol: float = 1e-10, max_iter: int = 100
) -> Selected:
    """Return the most likely precisions that are zero outside of a pattern.

    Parameters
    ----------
    second_moment : Tensor
        S, ``(p, p)``, symmetric with a positive diagonal; of double precision inside.
    support : Tensor
        Patterns E, boolean, ``(*batch, p, p)``, symmetric; the diagonal belongs to all of them.
    tol : float
        Largest decrement of Newton's method, about twice what f exceeds its minimum by.
    max_iter : int
        Steps of Newton's method, at most.

    Returns
    -------
    Selected
        Of double precision, on the device of S.

    Raises
    ------
    TypeError, ValueError
        If S is no such matrix, a pattern is not boolean or not symmetric, or a number is not positive.
    """
    S = check_moment(second_moment, "second_moment")
    p = len(S)
    if not isinstance(support, Tensor) or support.dtype != torch.bool:
        raise TypeError(
            f"support must be a boolean tensor, got {getattr(support, 'dtype', type(support).__name__)}"
        )
    if tuple(support.shape[-2:]) != (p, p) or not torch.equal(support, support.mT):
        raise ValueError(
            f"support must be symmetric, (*batch, {p}, {p}), got the shape {tuple(support.shape)}"
        )
    tol, max_iter = number(tol, "tol", above=0), integer(max_iter, "max_iter", minimum=1)
    scale = S.diagonal().rsqrt()
    correlation = S * (scale[:, None] * scale)  # Newton's method does not mind, conjugate gradients do
    patterns = support.to(S.device).reshape(-1, p, p) | torch.eye(p, dtype=torch.bool, device=S.device)
    matrix, value, converged = _newton(correlation, patterns.double(), tol, max_iter)
    batch = support.shape[:-2]
    return Selected(
        (matrix * (scale[:, None] * scale)).reshape(*batch, p, p),
        value.reshape(batch) - 2 * scale.log().sum(),
        converged.reshape(batch),
    )


def _newton(S: Tensor, E: Tensor, tol: float, max_iter: int) -> tuple[Tensor, Tensor, Tensor]:
    """Newton's method with backtracking for patterns ``(K, p, p)`` of zeros and ones; those that are done rest."""
    matrix = torch.eye(len(S), dtype=S.dtype, device=S.device).repeat(len(E), 1, 1)
    value = _value(S, matrix)
    converged = torch.zeros(len(E), dtype=torch.bool, device=S.device)
    running = torch.arange(len(E), device=S.device)
    for _ in range(max_iter):
        on, T, f = E[running], matrix[running], value[running]
        W = torch.cholesky_inverse(torch.linalg.cholesky(T))
        gradient = on * (S - W)
        step = _direction(W, on, gradient)
        decrement = -inner(gradient, step)
        length, moved = torch.ones_like(f), torch.zeros_like(f, dtype=torch.bool)
        for _ in range(_HALVINGS):
            proposed = _value(S, T + length[:, None, None] * step)
            moved = proposed <= f - 0.25 * length * decrement + 1e-14 * f.abs()
            if bool(moved.all()):
                break
            length = torch.where(moved, length, 0.5 * length)
        matrix[running] = T + torch.where(moved, length, 0.0)[:, None, None] * step
        value[running] = torch.where(moved, proposed, f)
        bounded = T.diagonal(dim1=-2, dim2=-1).amax(-1) < _LARGEST  # beyond, directions are mostly rounding
        done = (decrement <= tol) & bounded
        converged[running] = done
        running = running[~done & bounded & moved]
        if not len(running):
            break
    return matrix, value, converged


def _value(S: Tensor, T: Tensor) -> Tensor:
    """f, ``(K,)``; infinite where Λ is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(T)
    logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.where(info == 0, (S * T).sum((-2, -1)) - logdet, torch.inf)


def _direction(W: Tensor, on: Tensor, gradient: Tensor) -> Tensor:
    """Newton's direction: D with on ∘ (W D W) = -gradient, preconditioned by the diagonal of that map."""
    d = W.diagonal(dim1=-2, dim2=-1)
    inverse = on / (d[:, :, None] * d[:, None, :] + W.square())

    def hessian(D: Tensor) -> Tensor:
        image = W @ D @ W
        return on * (0.5 * (image + image.mT))  # rounding would grow in what is not symmetric

    # inexact Newton: each step gains a digit and a half, as the next would be for nothing
    goal = _FORCING**2 * inner(gradient, inverse * gradient)
    return conjugate_gradients(
        hessian,
        -on * gradient,
        lambda D, residual: inner(residual, inverse * residual) > goal,
        max_iter=_INNER,
        precondition=lambda residual: inverse * residual,
    ).x
