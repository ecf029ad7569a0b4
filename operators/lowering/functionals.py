"""Native lowerings of constants, indicators of boxes, the Kullback-Leibler divergence and quadratic forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import odl
import torch
from odl.functionals import (
    ConstantFunctional,
    IndicatorBox,
    IndicatorZero,
    KullbackLeibler,
    QuadraticForm,
    ScalingFunctional,
)
from odl.functionals.default_functionals import KullbackLeiblerConvexConj
from torch import Tensor

from genreg.operators.bridge.lowered import Step, TorchFunctional, append_axes, sample_ndims
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors, tree_map
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.lowering.building_blocks import constant, elementwise, number, weighted_sum, zeros
from genreg.operators.lowering.norms import conjugate, extremum, indicator, pointwise


@lower.register(ConstantFunctional)
def _constant(op: Any) -> TorchFunctional:
    value, nothing = number(op.constant), zeros(op.domain)
    return TorchFunctional(
        lambda t: nothing(t) + value,
        op.domain,
        lambda t, step: t,
        lambda t, step, scale: tree_map(torch.zeros_like, t),
        name=type(op).__name__,
    )


@lower.register(IndicatorZero)
def _indicator_zero(op: Any) -> TorchFunctional:
    value, nothing = number(op.constant), zeros(op.domain)
    largest = extremum(op.domain, torch.amax)

    def fn(t: Tensors) -> Tensor:
        at_zero = largest(tree_map(torch.abs, t)) == 0
        return torch.where(at_zero, nothing(t) + value, math.inf)

    return TorchFunctional(
        fn,
        op.domain,
        lambda t, step: tree_map(torch.zeros_like, t),
        lambda t, step, scale: t,
        name="IndicatorZero",
    )


@lower.register(ScalingFunctional)
def _scaling(op: Any) -> TorchFunctional:
    scale = number(op.scalar)
    return TorchFunctional(
        lambda t: scale * t,
        op.domain,
        lambda t, step: t - step * scale.conjugate(),
        name=type(op).__name__,
    )


@lower.register(IndicatorBox)
def _box(op: Any) -> TorchFunctional:
    space, low, high = op.domain, op.lower, op.upper
    if isinstance(low, Real) and isinstance(high, Real):
        if low > high:
            raise ValueError(f"`lower` must not exceed `upper`, got {low} and {high}")
        project = elementwise(space, lambda t: t.clamp(low, high))
    else:
        above, below = _bounded(space, low, torch.maximum), _bounded(space, high, torch.minimum)

        def project(t: Tensors) -> Tensors:
            return below(above(t))

    largest = extremum(space, torch.amax)

    def inside(t: Tensors) -> Tensor:
        return largest(tree_map(lambda a, b: (a - b).abs(), t, project(t))) == 0

    return TorchFunctional(
        indicator(inside, zeros(space)), space, lambda t, step: project(t), name=type(op).__name__
    )


def _bounded(space: Space, bound: Any, limit: Callable[..., Tensor]) -> Callable[[Tensors], Tensors]:
    if bound is None:
        return lambda t: t
    if isinstance(bound, Real):
        return elementwise(space, lambda t: limit(t, torch.as_tensor(bound, dtype=t.dtype, device=t.device)))
    value = constant(space.element(bound))
    return lambda t: tree_map(limit, t, value(t))


@lower.register(KullbackLeibler)
def _kullback_leibler(op: Any) -> TorchFunctional:
    r"""Sum of :math:`x - g + g \log(g / x)` over :math:`x \ge 0`, with :math:`0 \log 0 = 0`.

    The values differ from those of ODL 1.0 for g = 0. At g = x = 0 ODL computes 0 / 0, and the whole sum becomes
    infinite; here the term is x, the limit for g -> 0, to which ODL's own prox belongs (it returns such points). For
    x < 0 = g ODL gives x; here the term is infinite, since x is outside of the domain.
    """
    space, total = op.domain, weighted_sum(op.domain)
    prior = constant(op.prior if op.prior is not None else space.one())

    def divergence(x: Tensor, g: Tensor) -> Tensor:
        counted = g > 0  # elsewhere the logarithm has the factor 0 and must not enter the derivative as NaN
        logarithm = torch.where(counted, x / torch.where(counted, g, 1.0), 1.0).log()
        return torch.where(x < 0, math.inf, x - g - g * logarithm)

    def fn(t: Tensors) -> Tensor:
        return _inf_if_nan(total(tree_map(divergence, t, prior(t))))

    ndims = sample_ndims(space)

    def prox(t: Tensors, step: Step) -> Tensors:
        return tree_map(kullback_leibler_prox, t, prior(t), append_axes(step, ndims))

    return TorchFunctional(fn, space, prox, name="KullbackLeibler")


def kullback_leibler_prox(t: Tensor, g: Tensor, step: Step) -> Tensor:
    """Solve u² - (t - step) u - step g = 0 for u >= 0, without cancellation."""
    b = t - step
    root = (b.square() + 4 * step * g).sqrt()
    return torch.where(b > 0, (b + root) / 2, 2 * step * g / (root - b).clamp_min(1e-30))


@lower.register(KullbackLeiblerConvexConj)
def _kullback_leibler_conjugate(op: Any) -> TorchFunctional:
    total = weighted_sum(op.domain)
    prior = constant(op.prior if op.prior is not None else op.domain.one())

    def logarithm(x: Tensor, g: Tensor) -> Tensor:
        counted = g > 0  # elsewhere the conjugate is the indicator of x <= 1
        return torch.where(
            counted, -g * torch.where(counted, 1 - x, 1.0).log(), torch.where(x > 1, math.inf, 0)
        )

    def fn(t: Tensors) -> Tensor:
        return _inf_if_nan(total(tree_map(logarithm, t, prior(t))))

    return conjugate(_kullback_leibler(KullbackLeibler(op.domain, op.prior)), fn, "KullbackLeiblerConvexConj")


def _inf_if_nan(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, math.inf)


@lower.register(QuadraticForm)
def _quadratic_form(op: Any) -> TorchFunctional:
    r"""Return :math:`\langle x, A x + b\rangle + c`, without A :math:`\langle b, x\rangle + c`.

    It has a prox if A is a number.
    """
    space, offset, ndims = op.domain, number(op.constant), sample_ndims(op.domain)
    total, product = weighted_sum(space), elementwise(space, lambda x, y: x * y.conj())
    linear = None if op.vector is None else constant(op.vector)

    def moved(t: Tensors, step: Step) -> Tensors:
        return (
            t
            if linear is None
            else tree_map(lambda x, b, s: x - s * b, t, linear(t), append_axes(step, ndims))
        )

    if op.operator is None:
        vector = constant(op.vector)
        return TorchFunctional(
            lambda t: total(product(vector(t), t)) + offset, space, moved, name="QuadraticForm"
        )
    image = to_torch(op.operator).fn

    def fn(t: Tensors) -> Tensor:
        y = image(t)
        return total(product(t, y if linear is None else tree_map(torch.add, y, linear(t)))) + offset

    a = number(op.operator.scalar) if isinstance(op.operator, odl.ScalingOperator) else None
    if not isinstance(a, float) or a < 0:
        return TorchFunctional(fn, space, name="QuadraticForm")
    shrink = pointwise(space, lambda t, step: t / (1 + 2 * a * step))
    return TorchFunctional(fn, space, lambda t, step: shrink(moved(t, step), step), name="QuadraticForm")
