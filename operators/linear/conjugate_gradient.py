r"""The directions of conjugate gradients, for a batch of symmetric systems :math:`N x = b`.

Every sample has its own step, so that a batch takes the steps that its samples would take one at a time.
Complex samples count as real ones of twice the length: inner products are real parts of Hermitian ones.

References
----------
M. R. Hestenes, E. Stiefel (1952), Methods of conjugate gradients for solving linear systems,
doi:10.6028/jres.049.044.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["conjugate_directions", "inner"]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Real Euclidean inner product of every sample, ``(B,)``."""
    a, b = a.flatten(1), b.flatten(1)
    return (torch.view_as_real(a.conj() * b)[..., 0] if a.is_complex() else a * b).sum(1)


def conjugate_directions(N: Callable[[Tensor], Tensor], r: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the steps of x, and the residuals r = b - N x after them, for every sample.

    Parameters
    ----------
    N : callable
        Symmetric positive semidefinite map of ``(B, *shape)``, sample by sample.
    r : Tensor
        The residual to start from, ``(B, *shape)``; a sample of zeros stays where it is.

    Yields
    ------
    tuple of Tensor
        The step, to be added to x, and the residual by recursion. Ends when all residuals are zero.
    """
    tiny = torch.finfo(r.dtype).tiny

    def times(step: Tensor, v: Tensor) -> Tensor:
        return step.view(-1, *(1,) * (v.ndim - 1)) * v

    p, rr = r, inner(r, r)
    while bool((rr > 0).any()):
        Np = N(p)
        alpha = rr / inner(Np, p).clamp_min(tiny)
        r = r - times(alpha, Np)
        yield times(alpha, p), r
        rr, old = inner(r, r), rr
        p = r + times(rr / old.clamp_min(tiny), p)
