r"""The norm of a linear operator, by power iteration in torch."""

from __future__ import annotations

import math

import odl
import torch

from genreg.operators.bridge import to_torch, torch_device, torch_dtype, weight
from genreg.operators.spaces import space_shape

__all__ = ["operator_norm"]


def operator_norm(
    A: odl.Operator, *, weighted: bool = True, seed: int = 0, rtol: float = 1e-4, max_iter: int = 500
) -> float:
    r"""Estimate :math:`\|A\|` by power iteration on :math:`A^* A`.

    Parameters
    ----------
    A : odl.Operator
        Linear, from a tensor or power space.
    weighted : bool
        Norm in the inner products of the spaces, :math:`\sup \|A x\|_Y / \|x\|_X`; otherwise the Euclidean
        norm of the samples, which differs by the factor :math:`\sqrt{w_Y / w_X}` of the (constant) weights.
    seed : int
        Seed of the starting point.
    rtol : float
        Stop when the estimate changes by less than this fraction in one step. The estimate is a lower bound,
        and as a rule too small by some multiples of this.
    max_iter : int
        Steps at most.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `A` is not linear.
    """
    if not A.is_linear:
        raise ValueError(f"A must be linear, got {A!r}")
    forward, backward = to_torch(A), to_torch(A.adjoint)
    dtype = torch_dtype(A.domain)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, *space_shape(A.domain)), generator=generator, dtype=dtype).to(torch_device(A.domain))
    value = 0.0
    with torch.no_grad():
        for _ in range(max_iter):
            size = float(x.norm())
            if size == 0:
                return 0.0
            x = backward(forward(x / size))
            previous, value = value, math.sqrt(float(x.norm()))
            if abs(value - previous) <= rtol * value:
                break
    if weighted:
        return value
    return value * math.sqrt(_constant(A.domain) / _constant(A.range))


def _constant(space: object) -> float:
    w = weight(space)
    if not isinstance(w, float):
        raise ValueError(f"the Euclidean norm needs spaces with constant weights, got {space!r}")
    return w
