r"""Lowering by calls of ODL, sample by sample, for operators without a native lowering.

The Euclidean transpose that autograd needs follows from ODL's adjoint by the weights of the two spaces,
:math:`J^H c = w_X\, A'(x)^* (c / w_Y)`, and the Euclidean gradient of a functional is :math:`w_X \nabla f`.
Second derivatives exist for linear operators only. Some of ODL's adjoints are wrong (those of its Fourier transforms,
for instance): a dot test checks each before its first use, and a warning names the class that fails it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import odl
import torch
from torch import Tensor

from genreg.operators.bridge.autograd import linear_map
from genreg.operators.bridge.lowered import Step, TorchFunctional, TorchOperator
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import (
    Tensors,
    _element,
    first_leaf,
    is_stacked,
    space_shape,
    to_tensor,
    torch_dtype,
    tree_leaves,
    tree_map,
)
from genreg.operators.bridge.translation import lower
from genreg.operators.bridge.weights import riesz, weight
from genreg.operators.lowering.building_blocks import own_adjoint
from genreg.operators.lowering.elementary import LOCAL_CLASSES
from genreg.operators.testing import gaussian, inner

_warned: set[tuple[str, str]] = set()


@lower.register(odl.Operator)
def sample_by_sample(op: odl.Operator) -> TorchOperator:
    """Lower an operator by calls of ODL, with one warning per class."""
    if type(op).__qualname__ in LOCAL_CLASSES:
        return LOCAL_CLASSES[type(op).__qualname__](op)
    _warn_once(
        op,
        "has no native lowering, so ODL is called for one sample after the other; "
        "`genreg.operators.lower.register` teaches one",
    )
    calls = _Calls(op)
    if op.is_linear and is_stacked(op.domain) and is_stacked(op.range):
        fn = linear_map(calls.value, lambda c: calls.transposed(None, c))
    else:
        fn = calls.differentiable
    return TorchOperator(fn, op.domain, op.range, own_adjoint(op))


@lower.register(odl.functionals.Functional)
def _functional(op: Any) -> TorchFunctional:
    lowered = sample_by_sample(op)
    try:
        factory = op.proximal
    except (NotImplementedError, AttributeError, TypeError, ValueError):
        factory = None

    def prox(t: Tensors, step: Step) -> Tensors:
        batch, samples = _samples(op.domain, t)
        steps = torch.as_tensor(step, dtype=torch.float64).expand(batch).reshape(-1).tolist()
        pairs = zip(samples, steps, strict=True)
        return _batched(
            op.domain, batch, [to_tensor(factory(s)(_element(op.domain, x))) for x, s in pairs], t
        )

    return TorchFunctional(lowered.fn, op.domain, prox if factory else None, name=type(op).__name__)


class _Calls:
    """One ODL operator or functional, called sample by sample on batches of tensors."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.is_functional = isinstance(op, odl.functionals.Functional)
        self.adjoint_checked = False

    @functools.cached_property
    def domain_weight(self) -> Any:
        return weight(self.op.domain)

    def differentiable(self, t: Tensors) -> Tensors:
        return _pack(self.op.range, iter(_SampleBySample.apply(self, *tree_leaves(t))))

    def value(self, t: Tensors) -> Tensors:
        batch, samples = _samples(self.op.domain, t)
        return self._collected(batch, [self.op(_element(self.op.domain, x)) for x in samples], t)

    def transposed(self, t: Tensors | None, c: Tensors) -> Tensors:
        """J^H c at the points `t`, None for a linear operator."""
        domain, range_ = self.op.domain, self.op.range
        batch, cotangents = _samples(range_, c if self.is_functional else riesz(range_, c))
        points = [None] * len(cotangents) if t is None else _samples(domain, t)[1]
        out = []
        for x, r in zip(points, cotangents, strict=True):
            if self.is_functional:
                g = to_tensor(self.op.gradient(_element(domain, x)))
                out.append(tree_map(lambda g, r=r: g * r.real, g))
            else:
                derivative = self.op if x is None else self.op.derivative(_element(domain, x))
                self._check_adjoint(derivative)
                out.append(to_tensor(derivative.adjoint(_element(range_, r))))
        return tree_map(torch.mul, _batched(domain, batch, out, c), self.domain_weight)

    def pushed(self, t: Tensors, h: Tensors) -> Tensors:
        """J h at the points `t`."""
        batch, points = _samples(self.op.domain, t)
        pairs = list(zip(points, _samples(self.op.domain, h)[1], strict=True))
        pairs = [(_element(self.op.domain, x), _element(self.op.domain, d)) for x, d in pairs]
        return self._collected(batch, [self.op.derivative(x)(d) for x, d in pairs], t)

    def _collected(self, batch: tuple[int, ...], values: list[Any], like: Tensors) -> Tensors:
        if not self.is_functional:
            return _batched(self.op.range, batch, [to_tensor(v) for v in values], like)
        leaf = first_leaf(like)
        real = [complex(v).real for v in values]
        return torch.tensor(real, dtype=leaf.dtype.to_real(), device=leaf.device).reshape(batch)

    def _check_adjoint(self, derivative: Any) -> None:
        if self.adjoint_checked:
            return
        self.adjoint_checked = True
        generator = torch.Generator().manual_seed(0)
        h, r = gaussian(self.op.domain, generator), gaussian(self.op.range, generator)
        image, back = derivative(h), derivative.adjoint(r)
        error = abs((inner(image, r) - inner(h, back)).real)
        if error > 1e-3 * math.sqrt(abs(inner(image, image)) * abs(inner(r, r))):
            _warn_once(self.op, "has an adjoint that fails the dot test: gradients through it are wrong")


class _Opaque(torch.autograd.Function):
    """A function of tensors without a derivative: in the derivatives of `_SampleBySample`, ODL gets plain tensors."""

    @staticmethod
    def forward(fn: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> tuple[Tensor, ...]:
        return fn(*leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("an operator without native lowering has first derivatives only")

    jvp = backward

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], fn: Any, *leaves: Tensor) -> tuple[Any, Any]:
        out = _Opaque.apply(fn, *_batch_axis_first(info, in_dims[1:], leaves))
        return out, (0,) * len(out)


class _SampleBySample(torch.autograd.Function):
    """A nonlinear operator, or one between tuples of tensors, with the first derivative of ODL."""

    @staticmethod
    def forward(calls: _Calls, *leaves: Tensor) -> tuple[Tensor, ...]:
        return _of_leaves(calls.value, calls.op.domain)(*leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.calls = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        transposed = _of_leaves(ctx.calls.transposed, ctx.calls.op.domain, ctx.calls.op.range)
        return None, *_Opaque.apply(transposed, *ctx.saved_tensors, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor) -> tuple[Tensor, ...]:
        pushed = _of_leaves(ctx.calls.pushed, ctx.calls.op.domain, ctx.calls.op.domain)
        return _Opaque.apply(pushed, *ctx.saved_tensors, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], calls: _Calls, *leaves: Tensor) -> tuple[Any, Any]:
        out = _SampleBySample.apply(calls, *_batch_axis_first(info, in_dims[1:], leaves))
        return out, (0,) * len(out)


def _batch_axis_first(info: Any, in_dims: tuple[Any, ...], leaves: tuple[Tensor, ...]) -> list[Tensor]:
    return [
        x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
        for x, d in zip(leaves, in_dims, strict=True)
    ]


def _of_leaves(fn: Callable[..., Tensors], *spaces: Space) -> Callable[..., tuple[Tensor, ...]]:
    """A function of trees of some spaces as one of all their leaves."""

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        left = iter(leaves)
        return tuple(tree_leaves(fn(*(_pack(space, left) for space in spaces))))

    return flat


def _pack(space: Space, leaves: Any) -> Tensors:
    return next(leaves) if is_stacked(space) else tuple(_pack(s, leaves) for s in space.spaces)


def _samples(space: Space, t: Tensors) -> tuple[tuple[int, ...], list[Tensors]]:
    """Return the batch shape, and the list of samples."""
    if not is_stacked(space):
        parts = [_samples(s, part) for s, part in zip(space.spaces, t, strict=True)]
        return parts[0][0], list(zip(*(samples for _, samples in parts), strict=True))
    shape = space_shape(space)
    batch = tuple(t.shape[: t.ndim - len(shape)])
    return batch, list(t.reshape(math.prod(batch), *shape).unbind(0))


def _batched(space: Space, batch: tuple[int, ...], samples: list[Tensors], like: Tensors) -> Tensors:
    """Inverse of `_samples`, on the device of `like`."""
    if not is_stacked(space):
        parts = zip(*samples, strict=True) if samples else ([] for _ in space.spaces)
        return tuple(
            _batched(s, batch, list(part), like) for s, part in zip(space.spaces, parts, strict=True)
        )
    shape = space_shape(space)
    if not samples:
        return torch.zeros(batch + shape, dtype=torch_dtype(space), device=first_leaf(like).device)
    return torch.stack(samples).reshape(batch + shape).to(first_leaf(like).device)


def _warn_once(op: Any, message: str) -> None:
    cls = type(op)
    if (cls.__qualname__, message) not in _warned:
        _warned.add((cls.__qualname__, message))
        warnings.warn(f"{cls.__module__}.{cls.__qualname__} {message}", UserWarning, stacklevel=2)
