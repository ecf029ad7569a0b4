r"""Native lowerings of norms, of the indicators of their unit balls, and of Huber's functional.

With :math:`w` the weight of the space X these are weighted sums, and so is the norm in the definition

.. math:: \mathrm{prox}_{\tau f}(t) = \mathrm{argmin}_u\ \tau f(u) + \tfrac12 \|u - t\|_X^2 ,

which is why a constant weight cancels from all pointwise formulas below. Conjugates are taken in X as well.
Every `conj_prox` is the prox of :math:`\sigma (\lambda f)^*`, the form that primal-dual solvers need.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl.functionals import (
    GroupL1Norm,
    Huber,
    IndicatorGroupL1UnitBall,
    IndicatorLpUnitBall,
    L2NormSquared,
    LpNorm,
)
from torch import Tensor

from genreg.operators.bridge.lowered import Step, TorchFunctional, append_axes, sample_ndims
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors, is_stacked, space_shape, torch_dtype, tree_map
from genreg.operators.bridge.translation import lower
from genreg.operators.lowering.building_blocks import abs2, elementwise, safe_sqrt, weighted_sum, zeros
from genreg.operators.lowering.fields import pointwise_norm, sum_of_squares

_SMALL = 1e-18  # avoids 0 / 0 in projections onto balls of radius 0; its square is a normal float32


def pointwise(space: Space, fn: Callable[..., Tensor]) -> Callable[..., Tensors]:
    """Let ``fn(t, *steps)`` act on the tensors of `space`, each step a number or one number per sample."""
    if is_stacked(space):
        ndim = len(space_shape(space))
        return lambda t, *steps: fn(t, *(append_axes(s, ndim) for s in steps))
    parts = [pointwise(s, fn) for s in space.spaces]
    return lambda t, *steps: tuple(f(part, *steps) for f, part in zip(parts, t, strict=True))


def extremum(space: Space, reduce: Callable[..., Tensor]) -> Callable[[Tensors], Tensor]:
    """Return the map to the largest (or smallest) entry of each sample."""
    if is_stacked(space):
        axes = tuple(range(-len(space_shape(space)), 0))
        return lambda t: reduce(t, axes)
    parts = [extremum(s, reduce) for s in space.spaces]
    return lambda t: reduce(torch.stack([f(part) for f, part in zip(parts, t, strict=True)], -1), -1)


def indicator(
    feasible: Callable[[Tensors], Tensor], nothing: Callable[[Tensors], Tensor]
) -> Callable[[Tensors], Tensor]:
    """Return the map to 0 (from `nothing`, with derivative 0) where feasible and to infinity elsewhere."""
    return lambda t: torch.where(feasible(t), nothing(t), math.inf)


def conjugate(f: TorchFunctional, fn: Callable[[Tensors], Tensor], name: str) -> TorchFunctional:
    """Return the conjugate of f, with values `fn`; `prox` and `conj_prox` are exchanged."""
    prox, conj_prox, ndims = f._prox, f._conj_prox, f._ndims
    if prox is None or conj_prox is None:
        return TorchFunctional(fn, f.domain, name=name)

    def back(t: Tensors, step: Step, scale: Step) -> Tensors:  # (scale f*)* = scale f(. / scale)
        s = append_axes(scale, ndims)
        return tree_map(torch.mul, prox(tree_map(torch.div, t, s), step / scale), s)

    return TorchFunctional(fn, f.domain, lambda t, step: conj_prox(t, step, 1.0), back, name=name)


@lower.register(LpNorm)
def _lp_norm(op: Any) -> TorchFunctional:
    if op.exponent == 2:
        return _l2_norm(op)
    if op.exponent != 1:
        return TorchFunctional(_lp_value(op), op.domain, name=type(op).__name__)
    total, modulus = weighted_sum(op.domain), elementwise(op.domain, torch.abs)
    return _sum_of_norms(lambda t: total(modulus(t)), op.domain, "L1Norm")


def _lp_value(op: Any) -> Callable[[Tensors], Tensor]:
    p, total = op.exponent, weighted_sum(op.domain)
    if p == 0:
        return lambda t: total(tree_map(lambda a: (a != 0).to(a.real.dtype), t))
    if math.isinf(p):
        largest = extremum(op.domain, torch.amax if p > 0 else torch.amin)
        return lambda t: largest(tree_map(torch.abs, t))

    def fn(t: Tensors) -> Tensor:
        s = total(tree_map(lambda a: a.abs() ** p, t))
        positive = s > 0
        return torch.where(positive, torch.where(positive, s, 1.0) ** (1 / p), 0.0)

    return fn


def _l2_norm(op: Any) -> TorchFunctional:
    space, total, square = op.domain, weighted_sum(op.domain), elementwise(op.domain, abs2)
    ndims = sample_ndims(space)

    def norm(t: Tensors) -> Tensor:
        return safe_sqrt(total(square(t)))

    def prox(t: Tensors, step: Step) -> Tensors:
        factor = 1 - step * _inverse(total(square(t)), step)
        return tree_map(torch.mul, t, append_axes(factor, ndims))

    def conj_prox(t: Tensors, step: Step, scale: Step) -> Tensors:
        factor = scale * _inverse(total(square(t)), scale)
        return tree_map(torch.mul, t, append_axes(factor, ndims))

    return TorchFunctional(norm, space, prox, conj_prox, name="L2Norm")


@lower.register(L2NormSquared)
def _l2_squared(op: Any) -> TorchFunctional:
    space, total, square = op.domain, weighted_sum(op.domain), elementwise(op.domain, abs2)
    return TorchFunctional(
        lambda t: total(square(t)),
        space,
        pointwise(space, lambda t, step: t / (1 + 2 * step)),
        pointwise(space, lambda t, step, scale: t * (2 * scale / (2 * scale + step))),
        name="L2NormSquared",
    )


@lower.register(GroupL1Norm)
def _group_l1(op: Any) -> TorchFunctional:
    space, p = op.domain, op.pointwise_norm.exponent
    axis, total = -len(space_shape(space)), weighted_sum(space[0])
    norm = pointwise_norm(axis, p)

    def fn(t: Tensor) -> Tensor:
        return total(norm(t))

    if p not in (1, 2):
        return TorchFunctional(fn, space, name="GroupL1Norm")
    return _sum_of_norms(fn, space, "GroupL1Norm", axis=axis if p == 2 else None, outer=_outer_weight(space))


@lower.register(Huber)
def _huber(op: Any) -> TorchFunctional:
    space, gamma = op.domain, op.gamma
    axis = -len(space_shape(space)) if isinstance(space, odl.ProductSpace) else None
    total = weighted_sum(space if axis is None else space[0])

    def fn(t: Tensor) -> Tensor:
        s = abs2(t) if axis is None else sum_of_squares(t, axis)
        linear = s > gamma**2
        quadratic = s / (2 * gamma) if gamma > 0 else 0.0
        return total(torch.where(linear, torch.where(linear, s, 1.0).sqrt() - gamma / 2, quadratic))

    outer = 1.0 if axis is None else _outer_weight(space)
    return _sum_of_norms(fn, space, "Huber", axis=axis, gamma=gamma, outer=outer)


def _sum_of_norms(
    fn: Callable[[Tensors], Tensor],
    space: Space,
    name: str,
    axis: int | None = None,
    gamma: float = 0.0,
    outer: float | None = 1.0,
) -> TorchFunctional:
    r"""Return :math:`\sum_i w\, h_\gamma(|t_i|)`, whose values are `fn`; `axis` holds the components.

    :math:`h_\gamma` is Huber's function, the identity for :math:`\gamma = 0`. A weight :math:`\omega` of a
    product space, `outer`, enters the norm of X but not the sums over fields, and so has the effect of a factor
    :math:`1 / \omega` of the functional.
    """
    if outer is None:
        return TorchFunctional(fn, space, name=name)
    if axis is None and gamma == 0 and not torch_dtype(space).is_complex:
        prox = pointwise(space, lambda t, step: t - t.clamp(-step / outer, step / outer))
        conj_prox = pointwise(space, lambda t, step, scale: t.clamp(-scale / outer, scale / outer))
        return TorchFunctional(fn, space, prox, conj_prox, name=name)

    def square(t: Tensor) -> Tensor:
        return abs2(t) if axis is None else sum_of_squares(t, axis).unsqueeze(axis)

    def shrink(t: Tensor, step: Step) -> Tensor:
        step = step / outer
        return t * (1 - step * _inverse(square(t), gamma + step))

    def clip(t: Tensor, step: Step, scale: Step) -> Tensor:
        scale = scale / outer
        return t * (scale * _inverse(square(t), scale + gamma * step))

    return TorchFunctional(fn, space, pointwise(space, shrink), pointwise(space, clip), name=name)


def _inverse(squared: Tensor, floor: Step) -> Tensor:
    """1 / max(norm, floor) for squared norms; smooth at 0: the floor is positive."""
    if isinstance(floor, Tensor):
        return torch.maximum(squared, floor.clamp_min(_SMALL).square()).rsqrt()
    return squared.clamp(min=max(floor, _SMALL) ** 2).rsqrt_()  # torch.func.vmap knows no clamp_


def _outer_weight(space: Space) -> float | None:
    """Return the weight that a power space adds to that of its parts; None if it is not one number."""
    w = space.weighting
    weights = {float(w.const)} if hasattr(w, "const") else {float(c) for c in w.array}
    return weights.pop() if len(weights) == 1 else None


def _at_most_one(norms: Tensor) -> Tensor:
    """Whether norms are at most 1, up to the rounding error of a projection onto the ball."""
    return norms <= 1 + 16 * torch.finfo(norms.dtype).eps


@lower.register(IndicatorLpUnitBall)
def _lp_ball(op: Any) -> TorchFunctional:
    space, p, name = op.domain, op.exponent, "IndicatorLpUnitBall"
    norm = _lp_value(LpNorm(space, p))
    fn = indicator(lambda t: _at_most_one(norm(t)), zeros(space))
    if p not in (2, math.inf):
        return TorchFunctional(fn, space, name=name)
    return conjugate(_lp_norm(LpNorm(space, 2 if p == 2 else 1)), fn, name)


@lower.register(IndicatorGroupL1UnitBall)
def _group_ball(op: Any) -> TorchFunctional:
    space, p, name = op.domain, op.pointwise_norm.exponent, "IndicatorGroupL1UnitBall"
    norm, largest = pointwise_norm(-len(space_shape(space)), p), extremum(space[0], torch.amax)
    fn = indicator(lambda t: _at_most_one(largest(norm(t))), zeros(space))
    if p not in (2, math.inf):
        return TorchFunctional(fn, space, name=name)
    return conjugate(_group_l1(GroupL1Norm(space, 2 if p == 2 else 1)), fn, name)
