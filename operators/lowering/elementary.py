"""Native lowerings of ODL's elementary operators.

Adjoints are those of ODL, :math:`(w_Y / w_X) J^H`. In a few cases ODL omits a weight, which the lowered adjoint has:
matrices and sampling between differently weighted spaces, parts of weighted products, real and imaginary parts,
products by a number from a field.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import odl
import torch
from odl.core.set import Field
from odl.core.set.space import LinearSpaceElement
from torch import Tensor

from genreg.operators.bridge.lowered import TorchOperator
from genreg.operators.bridge.spaces import Tensors, is_stacked, space_shape, to_tensor, torch_dtype, tree_map
from genreg.operators.bridge.tensor_operator import weighted_pair
from genreg.operators.bridge.translation import lower
from genreg.operators.linear.sparse import SparsePair
from genreg.operators.lowering.building_blocks import (
    abs2,
    constant,
    elementwise,
    number,
    own_adjoint,
    real_part,
    replicated,
    safe_sqrt,
    times,
    weighted_sum,
    zeros,
)


@lower.register(odl.ScalingOperator)
def _scaling(op: Any) -> TorchOperator:
    scale = number(op.scalar)
    if scale == 1:
        identity = TorchOperator(lambda t: t, op.domain, op.range)
        identity._adjoint = identity
        return identity
    return TorchOperator.pair(
        times(op.domain, scale), times(op.domain, scale.conjugate()), op.domain, op.range
    )


@lower.register(odl.ZeroOperator)
def _zero(op: Any) -> TorchOperator:
    nothing = zeros(op.domain)
    return TorchOperator(lambda t: replicated(op.range, nothing(t)), op.domain, op.range, own_adjoint(op))


@lower.register(odl.ConstantOperator)
def _constant(op: Any) -> TorchOperator:
    value, nothing = constant(op.constant), zeros(op.domain)

    def fn(t: Tensors) -> Tensors:
        return tree_map(torch.add, replicated(op.range, nothing(t)), value(t))

    adjoint = (lambda: _zero(odl.ZeroOperator(op.range, op.domain))) if op.is_linear else None
    return TorchOperator(fn, op.domain, op.range, adjoint)


@lower.register(odl.MultiplyOperator)
def _multiply(op: Any) -> TorchOperator:
    factor, domain, range_ = op.multiplicand, op.domain, op.range
    if not isinstance(factor, LinearSpaceElement):
        scale = number(factor)
        return weighted_pair(times(domain, scale), times(range_, scale.conjugate()), domain, range_)
    if isinstance(domain, Field):  # c -> c v, whose adjoint is <., v>
        value, inner = constant(factor), _inner_with(factor)
        return TorchOperator.pair(
            lambda t: tree_map(torch.mul, replicated(range_, t), value(t)), inner, domain, range_
        )
    value = constant(factor)
    if isinstance(factor.space, odl.ProductSpace) and not is_stacked(factor.space):
        return TorchOperator.pair(
            lambda t: tree_map(torch.mul, t, value(t)),
            lambda t: tree_map(lambda a, v: a * v.conj(), t, value(t)),
            domain,
            range_,
        )
    return weighted_pair(
        elementwise(domain, lambda t: t * value(t)),
        elementwise(range_, lambda t: t * value(t).conj()),
        domain,
        range_,
    )


@lower.register(odl.InnerProductOperator)
def _inner_product(op: Any) -> TorchOperator:
    value = constant(op.vector)

    def adjoint(t: Tensor) -> Tensors:  # in the precision of the space, since elements of a field are doubles
        return tree_map(lambda r, v: r.to(v.dtype) * v, replicated(op.domain, t), value(t))

    return TorchOperator.pair(_inner_with(op.vector), adjoint, op.domain, op.range)


def _inner_with(vector: Any) -> Any:
    """Return x -> <x, vector> with the weight of the space."""
    value, total = constant(tree_map(torch.conj, to_tensor(vector))), weighted_sum(vector.space)
    return lambda t: total(tree_map(torch.mul, t, value(t)))


@lower.register(odl.NormOperator)
def _norm(op: Any) -> TorchOperator:
    total = weighted_sum(op.domain)
    return TorchOperator(lambda t: safe_sqrt(total(tree_map(abs2, t))), op.domain, op.range)


@lower.register(odl.DistOperator)
def _dist(op: Any) -> TorchOperator:
    total, value = weighted_sum(op.domain), constant(op.vector)
    return TorchOperator(
        lambda t: safe_sqrt(total(tree_map(lambda a, v: abs2(a - v), t, value(t)))), op.domain, op.range
    )


@lower.register(odl.PowerOperator)
def _power(op: Any) -> TorchOperator:
    fn = elementwise(op.domain, lambda t: t**op.exponent)
    identity = (lambda: _scaling(odl.IdentityOperator(op.domain))) if op.is_linear else None
    return TorchOperator(fn, op.domain, op.range, identity)


@lower.register(odl.LinCombOperator)
def _lincomb(op: Any) -> TorchOperator:
    a, b, stacked = number(op.a), number(op.b), is_stacked(op.domain)
    axis = -len(space_shape(op.domain)) if stacked else 0

    def fn(t: Tensors) -> Tensors:
        x, y = t.unbind(axis) if stacked else t
        return tree_map(lambda p, q: a * p + b * q, x, y)

    def adjoint(t: Tensors) -> Tensors:
        parts = tree_map(lambda p: a.conjugate() * p, t), tree_map(lambda p: b.conjugate() * p, t)
        return torch.stack(parts, axis) if stacked else parts

    return TorchOperator.pair(fn, adjoint, op.domain, op.range)


@lower.register(odl.RealPart)
def _real_part(op: Any) -> TorchOperator:
    real, into = elementwise(op.domain, real_part), elementwise(op.range, _cast(op.domain))
    return weighted_pair(real, into, op.domain, op.range)


@lower.register(odl.ImagPart)
def _imag_part(op: Any) -> TorchOperator:
    imag, into = elementwise(op.domain, _imag), elementwise(op.range, _cast(op.domain))
    if not torch_dtype(op.domain).is_complex:
        return _zero(odl.ZeroOperator(op.domain, op.range))
    return weighted_pair(imag, lambda t: tree_map(lambda a: 1j * a, into(t)), op.domain, op.range)


@lower.register(odl.ComplexEmbedding)
def _complex_embedding(op: Any) -> TorchOperator:
    scale, cast = number(op.scalar), _cast(op.range)
    back = times(op.range, scale.conjugate())
    take = (lambda t: t) if torch_dtype(op.domain).is_complex else (lambda t: tree_map(real_part, t))
    return weighted_pair(
        elementwise(op.domain, lambda t: scale * cast(t)), lambda t: take(back(t)), op.domain, op.range
    )


lower.register(
    odl.ComplexModulus, lambda op: TorchOperator(elementwise(op.domain, torch.abs), op.domain, op.range)
)
lower.register(
    odl.ComplexModulusSquared, lambda op: TorchOperator(elementwise(op.domain, abs2), op.domain, op.range)
)


def _imag(t: Tensor) -> Tensor:
    return t.imag if t.is_complex() else torch.zeros_like(t)


def _cast(space: Any) -> Any:
    """Return the embedding of real tensors, in their own precision, where `space` is complex."""
    if not torch_dtype(space).is_complex:
        return lambda t: t
    return lambda t: t if t.is_complex() else t.to(t.dtype.to_complex())


@lower.register(odl.MatrixOperator)
def _matrix(op: Any) -> TorchOperator:
    dtype = torch_dtype(op.range)
    if op.is_sparse:
        return _sparse_matrix(op, dtype)
    matrix = op.matrix if isinstance(op.matrix, Tensor) else torch.from_numpy(op.matrix.copy())
    forward = constant(matrix.to(dtype))
    backward = constant(matrix.to(dtype).T.conj())
    axis = op.axis % len(op.domain.shape) - len(op.domain.shape)

    def apply(t: Tensor, matrix: Tensor) -> Tensor:
        if t.dtype != matrix.dtype:
            dtype = torch.promote_types(t.dtype, matrix.dtype)
            t, matrix = t.to(dtype), matrix.to(dtype)
        if axis == -1:
            return torch.nn.functional.linear(t, matrix)
        return torch.nn.functional.linear(t.movedim(axis, -1), matrix).movedim(-1, axis)

    cast, uncast = _cast(op.range), _uncast(op.domain)
    return weighted_pair(
        lambda t: apply(cast(t), forward(t)), lambda t: uncast(apply(t, backward(t))), op.domain, op.range
    )


def _sparse_matrix(op: Any, dtype: torch.dtype) -> TorchOperator:
    matrix = op.matrix
    if isinstance(matrix, Tensor):
        import scipy.sparse

        matrix = matrix.coalesce().cpu()
        rows, columns = matrix.indices().numpy(force=True)
        matrix = scipy.sparse.coo_matrix(
            (matrix.values().numpy(force=True), (rows, columns)), tuple(matrix.shape)
        )
    real, real_back = _sparse_products(matrix.real, dtype.to_real())
    cast, uncast = _cast(op.range), _uncast(op.domain)
    if matrix.dtype.kind != "c":
        return weighted_pair(lambda t: real(cast(t)), lambda t: uncast(real_back(t)), op.domain, op.range)
    imag, imag_back = _sparse_products(matrix.imag, dtype.to_real())
    return weighted_pair(
        lambda t: real(cast(t)) + 1j * imag(cast(t)),
        lambda t: uncast(real_back(t) - 1j * imag_back(t)),
        op.domain,
        op.range,
    )


def _sparse_products(matrix: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the products with a real matrix and its transpose, in the wider of its and its argument's precision."""
    pair = SparsePair.from_scipy(matrix, dtype)
    on = functools.cache(lambda device, dtype: pair.to(device=device, dtype=dtype))

    def product(t: Tensor, transposed: bool) -> Tensor:
        t = t.to(torch.promote_types(dtype, t.dtype))
        there = on(t.device, t.dtype.to_real())
        return (there.T if transposed else there)(t)

    return lambda t: product(t, False), lambda t: product(t, True)


def _uncast(space: Any) -> Any:
    """Undo `_cast`: the adjoint of the embedding of a real into a complex space takes the real part."""
    return (lambda t: t) if torch_dtype(space).is_complex else real_part


@lower.register(odl.SamplingOperator)
def _sampling(op: Any) -> TorchOperator:
    scale = float(getattr(op.domain, "cell_volume", 1.0)) if op.variant == "integrate" else 1.0
    gather, scatter = _index_pair(op._indices_flat, op.domain, scale)
    return weighted_pair(gather, scatter, op.domain, op.range)


@lower.register(odl.WeightedSumSamplingOperator)
def _weighted_sum_sampling(op: Any) -> TorchOperator:
    scale = 1 / float(getattr(op.range, "cell_volume", 1.0)) if op.variant == "dirac" else 1.0
    gather, scatter = _index_pair(op._indices_flat, op.range, scale)
    return weighted_pair(scatter, gather, op.domain, op.range)


def _index_pair(indices: Any, space: Any, scale: float) -> tuple[Any, Any]:
    """Return the map from `space` to its entries at flat `indices`, times `scale`, and the transposed map."""
    index = constant(torch.as_tensor(indices, dtype=torch.int64))
    shape = space_shape(space)

    def gather(t: Tensor) -> Tensor:
        values = t.flatten(-len(shape)).index_select(-1, index(t))
        return values if scale == 1.0 else scale * values

    def scatter(t: Tensor) -> Tensor:
        empty = t.new_zeros((*t.shape[:-1], math.prod(shape)))
        values = empty.index_add(-1, index(t), t if scale == 1.0 else scale * t)
        return values.unflatten(-1, shape)

    return gather, scatter


def _flatten_pair(shape: tuple[int, ...]) -> tuple[Any, Any]:
    return lambda t: t.flatten(-len(shape)), lambda t: t.unflatten(-1, shape)


@lower.register(odl.FlatteningOperator)
def _flattening(op: Any) -> TorchOperator:
    return weighted_pair(*_flatten_pair(space_shape(op.domain)), op.domain, op.range)


def _flattening_inverse(op: Any) -> TorchOperator:
    return weighted_pair(*_flatten_pair(space_shape(op.range))[::-1], op.domain, op.range)


# Classes that ODL defines inside functions, by qualified name: they cannot be imported to register a rule.
LOCAL_CLASSES = {"FlatteningOperator.inverse.<locals>.FlatteningOperatorInverse": _flattening_inverse}
