r"""Conjugate gradients for a batch of symmetric systems :math:`N x = b`.

Every sample has its own step and its own end, so that a batch takes the steps that its samples would take one at a
time. Complex samples count as real ones of twice the length: inner products are real parts of Hermitian ones.

References
----------
M. R. Hestenes, E. Stiefel (1952), Methods of conjugate gradients for solving linear systems,
doi:10.6028/jres.049.044.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real Euclidean inner product of every sample, ``(B,)``."""
    a, b = a.flatten(1), b.flatten(1)
    return (torch.view_as_real(a.conj() * b)[..., 0] if a.is_complex() else a * b).sum(1)


class Solved(NamedTuple):
    """Where every sample has ended."""

    x: Tensor
    """``(B, *shape)``."""
    residual: Tensor
    """b - N x by recursion, ``(B, *shape)``."""
    steps: Tensor
    """Number of steps, ``(B,)``."""


def conjugate_gradients(
    N: Callable[[Tensor], Tensor],
    b: Tensor,
    unfinished: Callable[[Tensor, Tensor], Tensor],
    *,
    max_iter: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solved:
    r"""Solve N x = b from x = 0, every sample until it is finished.

    Parameters
    ----------
    N : callable
        Symmetric positive semidefinite map of ``(B, *shape)``, sample by sample.
    b : Tensor
        ``(B, *shape)``; a sample of zeros, or one that is not finite, stays at zero.
    unfinished : callable
        ``unfinished(x, residual) -> (B,)``, asked after every step: whether a sample goes on. One that has ended stays
        where it is.
    max_iter : int
        Steps at most.
    precondition : callable, optional
        Symmetric positive semidefinite map M of ``(B, *shape)``, close to the inverse of N: the steps are those
        for :math:`M^{1/2} N M^{1/2}`.
    """
    tiny = torch.finfo(b.dtype).tiny
    M = (lambda v: v) if precondition is None else precondition

    def column(values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (b.ndim - 1))

    x, r, z = torch.zeros_like(b), b, M(b)
    rz = inner(b, z)
    steps, running = torch.zeros_like(rz, dtype=torch.int64), rz > 0
    p = torch.where(column(running), z, 0)
    for _ in range(max_iter):
        if not bool(running.any()):
            break
        Np = N(p)
        alpha = column(torch.where(running, rz / inner(Np, p).clamp_min(tiny), 0))
        x, r, steps = x + alpha * p, r - alpha * Np, steps + running
        running = running & unfinished(x, r)
        z = M(r)
        rz, old = inner(r, z), rz
        running = running & (rz > 0)
        p = torch.where(column(running), z + column(rz / old.clamp_min(tiny)) * p, 0)
    return Solved(x, r, steps)
