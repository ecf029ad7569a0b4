"""From the output of a network to the entries of a sparse Cholesky factor."""

from __future__ import annotations

import torch
from torch import Tensor

from genreg.operators._stencil import Stencil
from genreg.operators.sparse_cholesky import soft_clip

__all__ = ["factor_entries"]


def factor_entries(
    out: Tensor, stencil: Stencil, bounds: tuple[float, float], limit: float
) -> tuple[Tensor, Tensor | None]:
    """Return log-diagonal ``(B, C, n, m)`` and weights ``(B, K, n, m)`` of L, as `Structured` has them.

    Parameters
    ----------
    out
        The log-diagonal before clipping, then the coefficients before saturation, ``(B, C + K, n, m)``.
    stencil
        The K neighbours; weights are None without any.
    bounds, limit
        Bounds of the log-diagonal; bound of the coefficients.
    """
    channels = out.shape[1] - len(stencil)
    log_diag = soft_clip(out[:, :channels], bounds)
    if not stencil:
        return log_diag, None
    scale = log_diag.exp()
    if channels > 1:
        scale = scale[:, [term.column for term in stencil]]
    return log_diag, scale * limit * torch.tanh(out[:, channels:] / limit)
