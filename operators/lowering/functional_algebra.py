r"""Native lowerings of the functionals that ODL's algebra builds, with the rules of proximal calculus.

===================================  =====================================================================
functional                           prox with step :math:`\tau` at t
===================================  =====================================================================
:math:`a f`                          :math:`\mathrm{prox}_{\tau a f}(t)`
:math:`f(s\,\cdot)`                  :math:`\mathrm{prox}_{\tau s^2 f}(s t) / s`
:math:`f(\cdot - y)`                 :math:`y + \mathrm{prox}_{\tau f}(t - y)`
:math:`f + a\|\cdot\|^2 + (\cdot, u)`  :math:`\mathrm{prox}_{\tau f / c}((t - \tau u) / c)`, c = 1 + 2 a τ
:math:`f \circ P`, P a component     the prox of f on that component, the identity on the others
===================================  =====================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import odl
import torch
from odl import functionals as F
from odl.functionals.functional import FunctionalDefaultConvexConjugate
from torch import Tensor

from genreg.operators.bridge.lowered import Step, TorchFunctional, append_axes
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors, join, split, tree_map
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.lowering.algebra import as_operator
from genreg.operators.lowering.building_blocks import (
    abs2,
    constant,
    elementwise,
    number,
    times,
    weighted_sum,
)
from genreg.operators.lowering.norms import conjugate


def following(build: Callable[..., TorchFunctional], *parts: TorchFunctional) -> TorchFunctional:
    """Return ``build(*parts)``, with a method `take` that takes the samples of its parts."""
    f = build(*parts)
    if any(part._take is not None for part in parts):
        f._take = lambda index: following(build, *(part.take(index) for part in parts))
    return f


def _plus(a: Tensor, b: Tensor | complex) -> Tensor:
    """Return a + b; torch multiplies b by 1 + 0i first, which makes complex numbers with an infinite part NaN."""
    real = not a.is_complex() and not (b.is_complex() if isinstance(b, Tensor) else isinstance(b, complex))
    if real:
        return a + b
    b = b if isinstance(b, Tensor) else torch.as_tensor(b, dtype=a.dtype.to_complex(), device=a.device)
    imag = [t.imag if t.is_complex() else torch.zeros_like(t) for t in (a, b)]
    return torch.complex(a.real + b.real, imag[0] + imag[1])


def _built_on(*names: str) -> Callable[[Callable[..., TorchFunctional]], Callable[[Any], TorchFunctional]]:
    """Make a lowering of a function of the operator and its lowered parts, the attributes `names`."""

    def decorate(build: Callable[..., TorchFunctional]) -> Callable[[Any], TorchFunctional]:
        @functools.wraps(build)
        def lowering(op: Any) -> TorchFunctional:
            return following(functools.partial(build, op), *(to_torch(getattr(op, name)) for name in names))

        return lowering

    return decorate


@lower.register(F.FunctionalComp)
@_built_on("left")
def _comp(op: Any, f: TorchFunctional) -> TorchFunctional:
    value, a = f.values, as_operator(op.right).fn
    name = f"{f.name} after {type(op.right).__name__}"
    if isinstance(op.right, odl.ScalingOperator):
        scaled = _at_scaled(f, number(op.right.scalar))
        return TorchFunctional(lambda t: value(a(t)), op.domain, scaled._prox, scaled._conj_prox, name=name)
    if isinstance(op.right, odl.ComponentProjection) and isinstance(op.right.index, int) and f.has_prox:
        return _on_component(f, op.domain, op.right.index, name)
    return TorchFunctional(lambda t: value(a(t)), op.domain, name=name)


def _on_component(f: TorchFunctional, space: Space, index: int, name: str) -> TorchFunctional:
    """Return t -> f(t[index]), with its prox; weights of the product space must be 1 for it."""
    value, proximal = f.values, f._prox
    unweighted = getattr(space.weighting, "const", None) == 1.0

    def fn(t: Tensors) -> Tensor:
        return value(split(space, t)[index])

    if proximal is None or not unweighted:
        return TorchFunctional(fn, space, name=name)

    def prox(t: Tensors, step: Step) -> Tensors:
        parts = list(split(space, t))
        parts[index] = proximal(parts[index], step)
        return join(space, parts)

    return TorchFunctional(fn, space, prox, name=name)


@lower.register(F.FunctionalLeftScalarMult)
@_built_on("functional")
def _left_scalar(op: Any, f: TorchFunctional) -> TorchFunctional:
    scale = number(op.scalar)
    if isinstance(scale, float) and scale >= 0:
        return f.scaled(scale)
    value = f.values
    return TorchFunctional(lambda t: scale * value(t), op.domain, name=f"{scale} times {f.name}")


@lower.register(F.FunctionalRightScalarMult)
@_built_on("functional")
def _right_scalar(op: Any, f: TorchFunctional) -> TorchFunctional:
    return _at_scaled(f, number(op.scalar))


def _at_scaled(f: TorchFunctional, s: Any) -> TorchFunctional:
    """Return t -> f(s * t)."""
    value, proximal, up = f.values, f._prox, times(f.domain, s)

    def fn(t: Tensors) -> Tensor:
        return value(up(t))

    if proximal is None or s == 0:
        return TorchFunctional(fn, f.domain, name=f.name)
    down, square = times(f.domain, 1 / s), abs(s) ** 2
    return TorchFunctional(fn, f.domain, lambda t, step: down(proximal(up(t), square * step)), name=f.name)


@lower.register(F.FunctionalRightVectorMult)
@_built_on("functional")
def _right_vector(op: Any, f: TorchFunctional) -> TorchFunctional:
    value, vector, times_ = f.values, constant(op.vector), elementwise(op.domain, torch.mul)
    return TorchFunctional(
        lambda t: value(times_(t, vector(t))), op.domain, name=f"{f.name} after a multiplication"
    )


def _combined(
    combine: Callable[..., Tensor], symbol: str, op: Any, f: TorchFunctional, g: TorchFunctional
) -> TorchFunctional:
    left, right = f.values, g.values
    return TorchFunctional(
        lambda t: combine(left(t), right(t)), op.domain, name=f"{f.name} {symbol} {g.name}"
    )


for _class, _names, _combine, _symbol in (
    (F.FunctionalSum, ("left", "right"), _plus, "+"),
    (F.FunctionalProduct, ("left", "right"), torch.mul, "*"),
    (F.FunctionalQuotient, ("dividend", "divisor"), torch.div, "/"),
):
    lower.register(_class, _built_on(*_names)(functools.partial(_combined, _combine, _symbol)))


@lower.register(F.FunctionalScalarSum)
@_built_on("left")
def _scalar_sum(op: Any, f: TorchFunctional) -> TorchFunctional:
    value, c = f.values, number(op.scalar)
    return TorchFunctional(lambda t: _plus(value(t), c), op.domain, f._prox, f._conj_prox, name=f.name)


@lower.register(F.FunctionalTranslation)
@_built_on("functional")
def _translation(op: Any, f: TorchFunctional) -> TorchFunctional:
    shift = constant(op.translation)
    value, proximal, conj_proximal, ndims = f.values, f._prox, f._conj_prox, f._ndims
    minus, plus = elementwise(op.domain, torch.sub), elementwise(op.domain, torch.add)

    def fn(t: Tensors) -> Tensor:
        return value(minus(t, shift(t)))

    if proximal is None or conj_proximal is None:
        return TorchFunctional(fn, op.domain, name=f.name)

    def prox(t: Tensors, step: Step) -> Tensors:
        y = shift(t)
        return plus(proximal(minus(t, y), step), y)

    def weighted_mean(t: Tensors, step: Step) -> Tensors:
        factor = append_axes(2 * step / (1 + 2 * step), ndims)
        return tree_map(_between, t, shift(t), factor)

    if type(op.functional) is F.L2NormSquared:
        prox = weighted_mean  # one pass instead of three

    def conj_prox(t: Tensors, step: Step, scale: Step) -> Tensors:  # the conjugate is f* + <., y>
        moved = tree_map(lambda a, y, s: a - s * y, t, shift(t), append_axes(step, ndims))
        return conj_proximal(moved, step, scale)

    return TorchFunctional(fn, op.domain, prox, conj_prox, name=f.name)


def _between(t: Tensor, y: Tensor, factor: Step) -> Tensor:
    if isinstance(factor, Tensor) or t.dtype != y.dtype:
        return t + factor * (y - t)
    return torch.lerp(t, y, factor)


@lower.register(F.FunctionalQuadraticPerturb)
@_built_on("functional")
def _quadratic_perturb(op: Any, f: TorchFunctional) -> TorchFunctional:
    a, c = float(op.quadratic_coeff), number(op.constant)
    value, proximal, ndims = f.values, f._prox, f._ndims
    linear, total = constant(op.linear_term), weighted_sum(op.domain)
    # a |x|^2 + <x, u> in one weighted sum
    terms = elementwise(op.domain, lambda t, u: a * abs2(t) + t * u.conj() if a else t * u.conj())

    def fn(t: Tensors) -> Tensor:
        return _plus(value(t), _plus(total(terms(t, linear(t))), c))

    if proximal is None or a < 0:
        return TorchFunctional(fn, op.domain, name=f"{f.name} + a quadratic")

    def prox(t: Tensors, step: Step) -> Tensors:
        factor = 1 + 2 * a * step
        moved = tree_map(
            lambda x, u, s, k: (x - s * u) / k,
            t,
            linear(t),
            append_axes(step, ndims),
            append_axes(factor, ndims),
        )
        return proximal(moved, step / factor)

    return TorchFunctional(fn, op.domain, prox, name=f.name)


@lower.register(F.BregmanDistance)
def _bregman(op: Any) -> TorchFunctional:
    offset = op.subgrad.inner(op.point) - op.functional(op.point)
    return to_torch(
        F.FunctionalQuadraticPerturb(op.functional, linear_term=-op.subgrad, constant=complex(offset).real)
    )


@lower.register(FunctionalDefaultConvexConjugate)
@_built_on("convex_conj")
def _default_conjugate(op: Any, f: TorchFunctional) -> TorchFunctional:
    def fn(t: Tensors) -> Tensor:
        raise NotImplementedError(f"no values are known for the convex conjugate of {f.name}")

    return conjugate(f, fn, f"the conjugate of {f.name}")


@lower.register(F.MoreauEnvelope)
@_built_on("functional")
def _envelope(op: Any, f: TorchFunctional) -> TorchFunctional:
    r"""Return :math:`\min_u f(u) + \|u - t\|^2 / 2\sigma`, of which ODL has the gradient only."""
    sigma, total, proximal = float(op.sigma), weighted_sum(op.domain), f._prox
    name = f"the envelope of {f.name}"
    if proximal is None:

        def unknown(t: Tensors) -> Tensor:
            raise NotImplementedError(f"no proximal operator is known for {f.name}, and so none of {name}")

        return TorchFunctional(unknown, op.domain, name=name)

    def fn(t: Tensors) -> Tensor:
        u = proximal(t, sigma)
        return _plus(f.values(u), total(tree_map(lambda a, b: abs2(a - b), t, u)) / (2 * sigma))

    def prox(t: Tensors, step: Step) -> Tensors:  # part of the way to the prox of f with a longer step
        factor = append_axes(step / (step + sigma), f._ndims)
        return tree_map(lambda a, u, c: a + c * (u - a), t, proximal(t, step + sigma), factor)

    return TorchFunctional(fn, op.domain, prox, name=name)


@lower.register(F.SeparableSum)
def _separable_sum(op: Any) -> TorchFunctional:
    """Lower a sum of functionals of the parts; its `prox` also takes a tuple of steps, one per part."""
    return following(functools.partial(_separable, op.domain), *(to_torch(f) for f in op.functionals))


def _separable(space: Space, *parts: TorchFunctional) -> TorchFunctional:
    def fn(t: Tensors) -> Tensor:
        return functools.reduce(_plus, (f.values(x) for f, x in zip(parts, split(space, t), strict=True)))

    missing = [f.name for f in parts if not f.has_prox]
    if missing:
        return TorchFunctional(fn, space, name=f"SeparableSum, because of its part {missing[0]}")
    proximals, conj_proximals = (
        [f._prox for f in parts if f._prox],
        [f._conj_prox for f in parts if f._conj_prox],
    )

    def each(step: Any) -> tuple[Step, ...]:
        return step if isinstance(step, tuple) else (step,) * len(parts)

    def prox(t: Tensors, step: Any) -> Tensors:
        triples = zip(proximals, split(space, t), each(step), strict=True)
        return join(space, [of_part(x, s) for of_part, x, s in triples])

    def conj_prox(t: Tensors, step: Any, scale: Step) -> Tensors:
        triples = zip(conj_proximals, split(space, t), each(step), strict=True)
        return join(space, [of_part(x, s, scale) for of_part, x, s in triples])

    return TorchFunctional(fn, space, prox, conj_prox, name="SeparableSum")
