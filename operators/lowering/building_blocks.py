"""Common parts of the lowerings: constants, weighted sums, zeros, Euclidean transposes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.lowered import TorchFunctional, TorchOperator
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import (
    DeviceCopies,
    Tensors,
    is_stacked,
    space_shape,
    to_tensor,
    torch_dtype,
    tree_map,
)
from genreg.operators.bridge.tensor_operator import TensorOperator
from genreg.operators.bridge.translation import to_torch
from genreg.operators.bridge.weights import weight, weighted_adjoint

Number = float | complex


def constant(x: Any) -> DeviceCopies:
    """Copy an ODL element (or tensors), and return the function that gives it on the device of its argument."""
    return DeviceCopies(
        tree_map(lambda t: t.detach().clone(), x if isinstance(x, Tensor | tuple) else to_tensor(x))
    )


def number(value: Any) -> Number:
    """Return a Python number, real where possible: a complex factor would make real tensors complex."""
    value = complex(value)
    return value.real if value.imag == 0 else value


def elementwise(space: Space, fn: Callable[..., Tensor]) -> Callable[..., Tensors]:
    """Return the map that applies `fn` to each tensor of `space`: `fn` itself for a stacked space."""
    return fn if is_stacked(space) else lambda *trees: tree_map(fn, *trees)


def times(space: Space, scale: Number) -> Callable[[Tensors], Tensors]:
    """Multiplication by a number."""
    return elementwise(space, lambda t: scale * t)


def weighted_sum(space: Space) -> Callable[[Tensors], Tensor]:
    """Return the map from tensor(s) to the weighted sum over each sample, ``(*batch,)``."""
    return _weighted_sum(space, weight(space))


def _weighted_sum(space: Any, w: float | Tensor | tuple[Any, ...]) -> Callable[[Tensors], Tensor]:
    if isinstance(w, tuple):
        return _sum_of_parts([_weighted_sum(s, v) for s, v in zip(space.spaces, w, strict=True)])
    axes = tuple(range(-len(space_shape(space)), 0))
    if isinstance(w, Tensor):
        array = constant(w)
        return lambda t: (t * array(t)).sum(axes)
    if not axes:
        return lambda t: w * t
    return (lambda t: t.sum(axes)) if w == 1.0 else (lambda t: w * t.sum(axes))


def _sum_of_parts(sums: list[Callable[[Tensors], Tensor]]) -> Callable[[Tensors], Tensor]:
    return lambda t: functools.reduce(torch.add, (f(part) for f, part in zip(sums, t, strict=True)))


def abs2(t: Tensor) -> Tensor:
    """Squared modulus, as a product, which is faster to differentiate than a square."""
    return t.real * t.real + t.imag * t.imag if t.is_complex() else t * t


def safe_sqrt(s: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, the smallest subgradient of a norm, instead of infinity."""
    positive = s > 0
    return torch.where(positive, torch.where(positive, s, 1.0).sqrt(), 0.0)


def zeros(space: Space) -> Callable[[Tensors], Tensor]:
    """Return the map to real zeros ``(*batch,)`` that depend on the argument for autograd."""
    if not is_stacked(space):
        return _sum_of_parts([zeros(s) for s in space.spaces])
    ndim = len(space_shape(space))

    def empty_sum(t: Tensor) -> Tensor:
        t = t.flatten(-ndim) if ndim > 1 else t if ndim else t.unsqueeze(-1)
        return (t.real if t.is_complex() else t)[..., :0].sum(-1)

    return empty_sum


def replicated(space: Space, values: Tensor) -> Tensors:
    """Values ``(*batch,)`` repeated over every entry of a sample of `space`; complex where the space is."""
    if not is_stacked(space):
        return tuple(replicated(s, values) for s in space.spaces)
    shape = space_shape(space)
    if torch_dtype(space).is_complex and not values.is_complex():
        values = values.to(values.dtype.to_complex())
    return values.reshape(values.shape + (1,) * len(shape)).expand(values.shape + shape)


def own_adjoint(op: Any) -> Callable[[], TorchOperator] | None:
    """Return the function that lowers ODL's own adjoint, called when it is needed; None for a nonlinear operator."""
    return (lambda: to_torch(op.adjoint)) if op.is_linear else None


def euclidean_pair(A: odl.Operator) -> tuple[Callable[[Tensor], Tensors], Callable[[Tensors], Tensor]]:
    r"""Return the action of A on samples and its Euclidean transpose :math:`w_X A^*(w_Y^{-1}\,\cdot)`."""
    if isinstance(A, TensorOperator):
        return A.forward, A.transpose
    lowered = to_torch(A)
    try:
        if isinstance(lowered, TorchFunctional):
            raise NotImplementedError
        adjoint = lowered.adjoint
    except NotImplementedError:
        raise NotImplementedError(f"`A` must be linear with an adjoint, got {A!r}, which has none") from None
    back = weighted_adjoint(adjoint.fn, A.domain, A.range, inverse=True)
    if torch_dtype(A.domain).is_complex:
        return lowered.fn, back
    return lowered.fn, lambda s: real_part(back(s))


def real_part(t: Tensor) -> Tensor:
    """Real part; the tensor itself if it is real."""
    return t.real if t.is_complex() else t
