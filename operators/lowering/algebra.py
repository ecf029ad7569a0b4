"""Native lowerings of what ODL's algebra builds, and of the operators of product spaces.

Closures are composed once, when an operator is lowered; a call makes no decisions. The adjoint of a composition is the
composition of the lowered adjoints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Integral
from typing import Any

import odl
import torch

from genreg.operators.bridge.lowered import TorchFunctional, TorchOperator
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors, is_stacked, join, split, tree_map
from genreg.operators.bridge.tensor_operator import weighted_pair
from genreg.operators.bridge.translation import lower, to_torch
from genreg.operators.lowering.building_blocks import (
    constant,
    elementwise,
    number,
    own_adjoint,
    replicated,
    times,
    zeros,
)
from genreg.operators.lowering.fields import difference_operator

_DIFFERENCES = (odl.Gradient, odl.Divergence, odl.Laplacian, odl.PartialDerivative)


def as_operator(op: Any) -> TorchOperator:
    """Lower `op`, a functional as an operator into its field."""
    f = to_torch(op)
    if not isinstance(f, TorchFunctional):
        return f
    return TorchOperator(f.values, op.domain, op.range, own_adjoint(op))


def composed(a: TorchOperator, b: TorchOperator) -> TorchOperator:
    """Return a after b."""
    f, g = a.fn, b.fn
    linear = a.linear and b.linear
    adjoint = (lambda: composed(b.adjoint, a.adjoint)) if linear else None
    return TorchOperator(lambda t: f(g(t)), b.domain, a.range, adjoint)


def added(a: TorchOperator, b: TorchOperator) -> TorchOperator:
    """Return a + b."""
    f, g, plus = a.fn, b.fn, elementwise(a.range, torch.add)
    adjoint = (lambda: added(a.adjoint, b.adjoint)) if a.linear and b.linear else None
    return TorchOperator(lambda t: plus(f(t), g(t)), a.domain, a.range, adjoint)


def multiplied(scale: Any, a: TorchOperator) -> TorchOperator:
    """Return the number `scale` times a."""
    if scale == 1:
        return a
    f, by = a.fn, times(a.range, scale)
    adjoint = (lambda: _at_scaled(a.adjoint, scale.conjugate())) if a.linear else None
    return TorchOperator(lambda t: by(f(t)), a.domain, a.range, adjoint)


def _at_scaled(a: TorchOperator, scale: Any) -> TorchOperator:
    """Return x -> a(scale * x)."""
    if scale == 1:
        return a
    f, by = a.fn, times(a.domain, scale)
    adjoint = (lambda: multiplied(scale.conjugate(), a.adjoint)) if a.linear else None
    return TorchOperator(lambda t: f(by(t)), a.domain, a.range, adjoint)


def _sampled(vector: Any, *domain: Any) -> TorchOperator:
    """Return x -> vector * x."""
    return to_torch(odl.MultiplyOperator(vector, *domain))


lower.register(odl.OperatorComp, lambda op: composed(as_operator(op.left), as_operator(op.right)))
lower.register(odl.OperatorSum, lambda op: added(as_operator(op.left), as_operator(op.right)))
lower.register(
    odl.OperatorRightScalarMult, lambda op: _at_scaled(as_operator(op.operator), number(op.scalar))
)
lower.register(odl.OperatorLeftVectorMult, lambda op: composed(_sampled(op.vector), as_operator(op.operator)))
lower.register(
    odl.OperatorRightVectorMult, lambda op: composed(as_operator(op.operator), _sampled(op.vector))
)
lower.register(
    odl.FunctionalLeftVectorMult,
    lambda op: composed(_sampled(op.vector, op.functional.range), as_operator(op.functional)),
)
lower.register(
    odl.BroadcastOperator, lambda op: _column([as_operator(a) for a in op.operators], op.domain, op.range)
)
lower.register(
    odl.ReductionOperator, lambda op: _row([as_operator(a) for a in op.operators], op.domain, op.range)
)


@lower.register(odl.OperatorVectorSum)
def _vector_sum(op: Any) -> TorchOperator:
    f, value, plus = as_operator(op.operator).fn, constant(op.vector), elementwise(op.range, torch.add)
    return TorchOperator(lambda t: plus(f(t), value(t)), op.domain, op.range)


@lower.register(odl.OperatorLeftScalarMult)
def _left_scalar(op: Any) -> TorchOperator:
    scale = number(op.scalar)
    if type(op.operator) in _DIFFERENCES and isinstance(scale, float):
        return difference_operator(op.operator, scale)
    return multiplied(scale, as_operator(op.operator))


@lower.register(odl.OperatorPointwiseProduct)
def _pointwise_product(op: Any) -> TorchOperator:
    f, g, times_ = as_operator(op.left).fn, as_operator(op.right).fn, elementwise(op.range, torch.mul)
    return TorchOperator(lambda t: times_(f(t), g(t)), op.domain, op.range)


@lower.register(odl.ProductSpaceOperator)
def _product_space(op: Any) -> TorchOperator:
    entries = zip(op.ops.row, op.ops.col, (as_operator(a) for a in op.ops.data), strict=True)
    return _matrix([(int(i), int(j), a) for i, j, a in entries], op.domain, op.range)


@lower.register(odl.DiagonalOperator)
def _diagonal(op: Any) -> TorchOperator:
    first = op.operators[0]
    if all(a is first for a in op.operators) and is_stacked(op.domain) and is_stacked(op.range):
        return _repeated(as_operator(first), op.domain, op.range)
    return _product_space(op)


def _repeated(a: TorchOperator, domain: Space, range: Space) -> TorchOperator:
    """Return a on every part of a power space, which is one more batch axis to it."""
    adjoint = (lambda: _repeated(a.adjoint, range, domain)) if a.linear else None
    return TorchOperator(a.fn, domain, range, adjoint)


def _matrix(entries: list[tuple[int, int, TorchOperator]], domain: Space, range_: Space) -> TorchOperator:
    """Matrix of operators between product spaces, as (row, column, operator)."""
    rows: list[list[tuple[int, Callable]]] = [[] for _ in range_.spaces]
    for i, j, a in entries:
        rows[i].append((j, a.fn))
    nothing = zeros(domain)
    plus = [elementwise(space, torch.add) for space in range_.spaces]

    def fn(t: Tensors) -> Tensors:
        parts = split(domain, t)
        out = []
        for row, add, space in zip(rows, plus, range_.spaces, strict=True):
            terms = [f(parts[j]) for j, f in row] or [replicated(space, nothing(t))]
            out.append(functools.reduce(add, terms))
        return join(range_, out)

    def adjoint() -> TorchOperator:
        return _matrix([(j, i, a.adjoint) for i, j, a in entries], range_, domain)

    return TorchOperator(fn, domain, range_, adjoint if all(a.linear for *_, a in entries) else None)


def _column(ops: list[TorchOperator], domain: Space, range_: Space) -> TorchOperator:
    fns = [a.fn for a in ops]
    adjoint = (lambda: _row([a.adjoint for a in ops], range_, domain)) if all(a.linear for a in ops) else None
    return TorchOperator(lambda t: join(range_, [f(t) for f in fns]), domain, range_, adjoint)


def _row(ops: list[TorchOperator], domain: Space, range_: Space) -> TorchOperator:
    fns, add = [a.fn for a in ops], elementwise(range_, torch.add)

    def fn(t: Tensors) -> Tensors:
        return functools.reduce(add, [f(part) for f, part in zip(fns, split(domain, t), strict=True)])

    adjoint = (
        (lambda: _column([a.adjoint for a in ops], range_, domain)) if all(a.linear for a in ops) else None
    )
    return TorchOperator(fn, domain, range_, adjoint)


@lower.register(odl.ComponentProjection)
def _component(op: Any) -> TorchOperator:
    take, put = _taking(op.domain, op.range, op.index), _putting(op.range, op.domain, op.index)
    return weighted_pair(take, put, op.domain, op.range)


@lower.register(odl.ComponentProjectionAdjoint)
def _component_adjoint(op: Any) -> TorchOperator:
    put, take = _putting(op.domain, op.range, op.index), _taking(op.range, op.domain, op.index)
    return weighted_pair(put, take, op.domain, op.range)


def _taking(domain: Space, range_: Space, index: Any) -> Callable[[Tensors], Tensors]:
    """Return the map to one part of a product space, or to several."""
    if isinstance(index, Integral):
        return lambda t: split(domain, t)[index]
    chosen = _positions(domain, index)

    def fn(t: Tensors) -> Tensors:
        parts = split(domain, t)
        return join(range_, [parts[i] for i in chosen])

    return fn


def _putting(domain: Space, range_: Space, index: Any) -> Callable[[Tensors], Tensors]:
    """Return the map that puts one part (or several) into an otherwise zero element of a product space.

    Parts for the same place are added, as the adjoint of taking a part twice requires; ODL keeps the last one.
    """
    single = isinstance(index, Integral)
    chosen = [index % len(range_)] if single else _positions(range_, index)
    nothing = zeros(domain)

    def fn(t: Tensors) -> Tensors:
        given: dict[int, Tensors] = {}
        for i, part in zip(chosen, [t] if single else split(domain, t), strict=True):
            given[i] = tree_map(torch.add, given[i], part) if i in given else part
        zero = nothing(t)
        out = [given[i] if i in given else replicated(s, zero) for i, s in enumerate(range_.spaces)]
        return join(range_, out)

    return fn


def _positions(space: Space, index: Any) -> list[int]:
    return (
        list(range(len(space)))[index] if isinstance(index, slice) else [int(i) % len(space) for i in index]
    )
