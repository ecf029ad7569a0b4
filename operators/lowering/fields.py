"""Native lowerings of ODL's differential operators and of pointwise operations on vector fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import odl
import torch
from odl.core.operator.tensor_ops import PointwiseInnerAdjoint
from torch import Tensor

from genreg.operators.bridge.autograd import linear_map
from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import space_shape, to_tensor, torch_dtype
from genreg.operators.bridge.tensor_operator import weighted_pair
from genreg.operators.bridge.translation import lower
from genreg.operators.lowering.building_blocks import abs2, constant, own_adjoint
from genreg.operators.lowering.finite_differences import stencil

# One difference along an axis: (axis counted from the end, kind, padding, factor)
Difference = tuple[int, str, str, float]


@lower.register(odl.Gradient)
@lower.register(odl.Divergence)
@lower.register(odl.Laplacian)
@lower.register(odl.PartialDerivative)
def difference_operator(op: Any, scale: float = 1.0) -> TorchOperator:
    """Lower `scale` times a differential operator; the factor is merged with that of the stencil."""
    space = op.range if isinstance(op, odl.Divergence) else op.domain
    shape, sides, mode = space_shape(space), space.cell_sides, op.pad_mode
    ndim = len(shape)
    if isinstance(op, odl.Laplacian):
        steps = [(a - ndim, "second", mode, scale / float(sides[a]) ** 2) for a in range(ndim)]
        forward, adjoint = _sum(steps, shape, False), _sum(steps, shape, True)
    elif isinstance(op, odl.PartialDerivative):
        axis = op.axis % ndim
        steps = [(axis - ndim, op.method, mode, scale / float(op.dx))]
        forward, adjoint = _sum(steps, shape, False), _sum(steps, shape, True)
    else:
        steps = [(a - ndim, op.method, mode, scale / float(sides[a])) for a in range(ndim)]
        if isinstance(op, odl.Gradient):
            forward, adjoint = _stack(steps, shape, False), _contract(steps, shape, True)
        else:
            forward, adjoint = _contract(steps, shape, False), _stack(steps, shape, True)
    fn = linear_map(forward, adjoint)
    if mode == "constant" and op.pad_const != 0:
        offset = constant(scale * op(op.domain.zero()))
        return TorchOperator(lambda t: fn(t) + offset(t), op.domain, op.range)
    return TorchOperator(fn, op.domain, op.range, own_adjoint(op if scale == 1.0 else scale * op))


def _prepared(steps: Sequence[Difference], shape: tuple[int, ...], transposed: bool) -> list[Any]:
    """Return (axis, stencil, factor) for each of the differences."""
    parts = [(axis, stencil(shape[axis], kind, mode, transposed), c) for axis, kind, mode, c in steps]
    parts = [(axis, s if c * s.scale > 0 else s.negated(), c) for axis, s, c in parts]  # avoids factors of -1
    return [(axis, s, c * s.scale) for axis, s, c in parts]


def _stack(
    steps: Sequence[Difference], shape: tuple[int, ...], transposed: bool
) -> Callable[[Tensor], Tensor]:
    """Return x -> (s_1 D_1 x, ..., s_n D_n x), stacked in front of the axes of the space."""
    parts, n = _prepared(steps, shape, transposed), len(steps)
    factors = {c for *_, c in parts}
    common = factors.pop() if len(factors) == 1 else None

    def fn(x: Tensor) -> Tensor:
        batch = x.shape[: x.ndim - len(shape)]
        out = x.new_empty((*batch, n, *shape))
        if common is not None and common != 1.0:
            x = common * x  # one image to scale instead of n
        for i, (axis, d, c) in enumerate(parts):
            component = out.select(-len(shape) - 1, i)  # (*batch, *shape)
            d.apply(x, axis, component)
            if common is None and c != 1.0:
                component.mul_(c)
        return out

    return fn


def _contract(
    steps: Sequence[Difference], shape: tuple[int, ...], transposed: bool
) -> Callable[[Tensor], Tensor]:
    """Return p -> s_1 D_1 p_1 + ... + s_n D_n p_n."""
    add = _adder(_prepared(steps, shape, transposed))
    return lambda p: add(p.unbind(-len(shape) - 1))


def _sum(steps: Sequence[Difference], shape: tuple[int, ...], transposed: bool) -> Callable[[Tensor], Tensor]:
    """Return x -> s_1 D_1 x + ... + s_n D_n x."""
    add = _adder(_prepared(steps, shape, transposed))
    return lambda x: add((x,) * len(steps))


def _adder(parts: list[Any]) -> Callable[[Sequence[Tensor]], Tensor]:
    (axis0, d0, c0), *others = parts

    def add(components: Sequence[Tensor]) -> Tensor:
        out = components[0].new_empty(components[0].shape)
        d0.apply(components[0], axis0, out)
        if c0 != 1.0:
            out.mul_(c0)
        if others:
            term = torch.empty_like(out)
            for (axis, d, c), x in zip(others, components[1:], strict=True):
                d.apply(x, axis, term)
                out.add_(term, alpha=c)
        return out

    return add


@lower.register(odl.PointwiseNorm)
def _pointwise_norm(op: Any) -> TorchOperator:
    axis = -len(space_shape(op.domain))
    norm = pointwise_norm(axis, op.exponent)
    if not op.is_weighted:
        return TorchOperator(norm, op.domain, op.range)
    w = _stacked_weights(op.weights, op.domain).abs()
    # ODL multiplies |x_i|^p by the weight, for the maximum norm |x_i| itself
    root = constant(w if math.isinf(op.exponent) else w ** (1 / op.exponent))
    return TorchOperator(lambda t: norm(t * root(t)), op.domain, op.range)


def pointwise_norm(axis: int, exponent: float) -> Callable[[Tensor], Tensor]:
    """Return the p-norm along `axis`, whose derivative is 0 where the norm is 0."""
    if exponent == 1.0:
        return lambda t: t.abs().sum(axis)
    if math.isinf(exponent):
        return lambda t: t.abs().amax(axis)
    if exponent == 2.0:
        return lambda t: _root(sum_of_squares(t, axis), 0.5)
    return lambda t: _root((t.abs() ** exponent).sum(axis), 1 / exponent)


def sum_of_squares(t: Tensor, axis: int) -> Tensor:
    """Sum squared moduli along a short leading axis, for which torch's own reductions are far slower."""
    first, *others = t.unbind(axis)
    total = abs2(first)
    for part in others:
        total = total + abs2(part) if part.is_complex() else torch.addcmul(total, part, part)
    return total


def _root(s: Tensor, power: float) -> Tensor:
    """Power of s >= 0, cut off at the smallest normal number, so that its derivatives at 0 are 0."""
    s = s.clamp_min(torch.finfo(s.dtype).tiny)
    return s.sqrt() if power == 0.5 else s**power


@lower.register(odl.PointwiseInner)
def _pointwise_inner(op: Any) -> TorchOperator:
    axis = -len(space_shape(op.domain))
    field = to_tensor(op.vecfield).conj()
    if op.is_weighted:
        field = field * _stacked_weights(op.weights, op.domain)
    factor = constant(field.resolve_conj())
    return weighted_pair(
        lambda t: (t * factor(t)).sum(axis),
        lambda t: t.unsqueeze(axis) * factor(t).conj(),
        op.domain,
        op.range,
    )


@lower.register(PointwiseInnerAdjoint)
def _pointwise_inner_adjoint(op: Any) -> TorchOperator:
    axis = -len(space_shape(op.range))
    outer = op.range.weighting
    column = _stacked_weights(outer.array if hasattr(outer, "array") else [outer.const], op.range)
    factor = constant(to_tensor(op.vecfield) * (_stacked_weights(op.weights, op.range) / column))
    return weighted_pair(
        lambda t: t.unsqueeze(axis) * factor(t),
        lambda t: (t * factor(t).conj()).sum(axis),
        op.domain,
        op.range,
    )


def _stacked_weights(weights: Any, space: Space) -> Tensor:
    """Return weights of the parts, numbers or elements, as one tensor that multiplies tensors of `space`."""
    ndim = len(space_shape(space)) - 1
    tensors = [w if w.ndim else w.reshape((1,) * ndim) for w in map(to_tensor, weights)]
    stack = torch.stack(tensors)  # ODL writes the weights of a complex space as complex numbers
    return (stack.real if stack.is_complex() else stack).to(torch_dtype(space).to_real())
