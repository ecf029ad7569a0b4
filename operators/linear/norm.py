r"""The norm of a linear operator, by the Lanczos method in torch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import odl
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from genreg.operators.bridge.arguments import flag, integer, number, seeded_generator
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import (
    Tensors,
    is_stacked,
    space_shape,
    torch_device,
    torch_dtype,
    tree_map,
)
from genreg.operators.bridge.translation import to_torch
from genreg.operators.bridge.weights import weight


@undisturbed
def operator_norm(
    A: odl.Operator,
    *,
    weighted: bool = True,
    seed: int | torch.Generator = 0,
    rtol: float | None = None,
    max_iter: int = 300,
) -> float:
    r"""Compute the norm :math:`\|A\| = \sup \|A x\|_Y / \|x\|_X` of a linear operator.

    The Lanczos method on :math:`A^* A` takes the best estimate from all the vectors of a power iteration. The result
    is a lower bound, with the relative error below.

    Parameters
    ----------
    A : odl.Operator
        Linear operator.
    weighted : bool
        Take the norms of the spaces; otherwise the Euclidean ones of the samples, which for constant weights
        multiplies the result by :math:`\sqrt{w_X / w_Y}`.
    seed : int or torch.Generator
        Seed of the starting point of the iteration.
    rtol : float, optional
        Relative error of the squared norm; by default 1e-8 in double and 1e-5 in single precision.
    max_iter : int
        Applications of :math:`A^* A` at most.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If `A` is not an ODL operator.
    ValueError
        If `A` is not linear.

    Warns
    -----
    RuntimeWarning
        If the iteration ends before the error is reached.
    """
    if not isinstance(A, odl.Operator):
        raise TypeError(f"`A` must be an ODL operator, got {type(A).__name__}")
    if not A.is_linear:
        raise ValueError(f"`A` must be linear, got {A!r}")
    weighted, max_iter = flag(weighted, "`weighted`"), integer(max_iter, "`max_iter`", minimum=1)
    if rtol is not None:
        rtol = number(rtol, "`rtol`", above=0, below=1)
    forward = to_torch(A)
    backward = forward.adjoint
    outer, inner = weight(A.range), weight(A.domain)
    start = random_tensors(A.domain, seeded_generator(seed, name="`seed`"))
    root = 1.0 if not weighted else _map(lambda w: w**0.5, inner)

    def gram(v: Tensor) -> Tensor:
        """The symmetric form of A* A in Euclidean coordinates: W^½ A* A W^-½, or M^H M for the samples."""
        if weighted:
            return _pack(
                _weigh(torch.mul, backward(forward(_weigh(torch.div, _unpack(v, start), root))), root)
            )
        data = _weigh(torch.div, forward(_unpack(v, start)), outer)
        return _pack(_weigh(torch.mul, backward(data), inner))

    with torch.no_grad():
        v = _pack(start)
        if rtol is None:
            rtol = 1e-5 if v.dtype in (torch.float32, torch.complex64) else 1e-8
        value, error = _lanczos(gram, v / v.norm(), rtol, max_iter)
    if error > rtol * value:
        warnings.warn(
            f"the norm of the operator is known to a relative error of {0.5 * error / value:.1e} only",
            RuntimeWarning,
            stacklevel=2,
        )
    return math.sqrt(max(value, 0.0)) if math.isfinite(value) else value


def _lanczos(
    matrix: Callable[[Tensor], Tensor], v: Tensor, rtol: float, max_iter: int
) -> tuple[float, float]:
    """Return the largest eigenvalue of a positive semidefinite map and a bound of its error."""
    size = v.numel()
    basis = v.new_empty(min(16, size), size)
    basis[0] = v
    diagonal: list[float] = []
    off: list[float] = []
    value, error = 0.0, math.inf
    for k in range(min(max_iter, size)):
        w = matrix(basis[k])
        diagonal.append(float(torch.vdot(basis[k], w).real))
        if not math.isfinite(diagonal[-1]):
            return math.nan, 0.0
        known = basis[: k + 1]
        for _ in range(2):  # once more, since rounding spoils the first
            w = w - (known.conj() @ w) @ known
        norm = float(w.norm())
        values, vectors = eigh_tridiagonal(diagonal, off, select="i", select_range=(k, k))
        value, error = float(values[-1]), norm * abs(float(vectors[-1, -1]))
        if error <= rtol * value or k + 1 == size:
            return value, min(error, rtol * value)
        if k + 1 == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[k + 1] = w / norm
        off.append(norm)
    return value, error


def random_tensors(space: Any, generator: torch.Generator) -> Tensors:
    """Normal tensors of a space, drawn in double precision; a tuple of them for a product that is not stacked."""
    if not is_stacked(space):
        return tuple(random_tensors(part, generator) for part in space.spaces)
    dtype = torch_dtype(space)
    draw = torch.float64 if dtype.is_floating_point else torch.complex128
    return torch.randn(space_shape(space), generator=generator, dtype=draw).to(torch_device(space), dtype)


def _weigh(function: Callable[[Tensor, Any], Tensor], t: Tensors, w: float | Tensor | tuple) -> Tensors:
    return tree_map(function, t, w) if isinstance(w, tuple) else function(t, w)


def _map(function: Callable[[Any], Any], w: float | Tensor | tuple) -> Any:
    return tuple(_map(function, part) for part in w) if isinstance(w, tuple) else function(w)


def _pack(t: Tensors) -> Tensor:
    """All entries in one vector."""
    return torch.cat([_pack(part) for part in t]) if isinstance(t, tuple) else t.flatten()


def _unpack(v: Tensor, like: Tensors) -> Tensors:
    """Inverse of `_pack`."""
    if isinstance(like, Tensor):
        return v.reshape(like.shape)
    sizes = [_pack(part).numel() for part in like]
    return tuple(_unpack(part, item) for part, item in zip(v.split(sizes), like, strict=True))
