r"""Torch modules as ODL operators and functionals, so that ODL's algebra and solvers work on networks.

A module acts on batches: it maps ``(B, *domain.shape)`` to ``(B, *range.shape)``, or to ``(B,)`` for a
functional. A product space that is not a power space gives it one argument per part, and takes a tuple of
outputs. The module is put into eval mode and its parameters are frozen.

With the Jacobian J of the module at x and the weights of the spaces, derivatives are

.. math:: G'(x)^* r = \frac{w_Y}{w_X} J^H r , \qquad \nabla f(x) = \frac{1}{w_X} J^H 1 .
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import odl
import torch
from torch import Tensor, nn

from genreg.operators.bridge.arguments import described
from genreg.operators.bridge.lowered import TorchFunctional, TorchOperator
from genreg.operators.bridge.module_at_point import Evaluation, LastPoint, apply, tree_map_spaces, trial
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import (
    Tensors,
    first_leaf,
    space_shape,
    to_element,
    to_tensor,
    torch_dtype,
    tree_leaves,
    tree_map,
)
from genreg.operators.bridge.translation import lower
from genreg.operators.bridge.weights import riesz, weight


class NetworkOperator(odl.Operator):
    """A torch module as an operator between ODL spaces.

    Its value at the last point is kept with the graph of autograd, so that the value, the derivative and its
    adjoint at one point cost one forward pass. Pickling and copying leave it out.

    Parameters
    ----------
    module : torch.nn.Module
        Maps batches to batches, see the module docstring. It is put into eval mode and its parameters are
        frozen; they keep their device, to which elements are moved.
    domain, range : odl spaces
        Tensor spaces or product spaces of these, numpy or pytorch.

    Attributes
    ----------
    module : torch.nn.Module
        The module itself, not a copy.

    Raises
    ------
    TypeError
        If `module` is not a torch module.
    ValueError
        If its data type is not that of the spaces, or its output does not fit `range`.
    """

    def __init__(self, module: nn.Module, domain: Space, range: Space) -> None:
        for name, space in (("domain", domain), ("range", range)):
            if not isinstance(space, odl.core.set.LinearSpace):
                raise TypeError(f"`{name}` must be an ODL space, got {described(space)}")
        super().__init__(domain, range, linear=False)
        self._at = LastPoint(module, domain)
        self.module = self._at.module
        outputs = trial(module, domain, self._at.device)
        expected = tree_map_spaces(range, lambda s: ((2, *space_shape(s)), torch_dtype(s)))
        received = tree_map(lambda t: (tuple(t.shape), t.dtype), outputs)
        if received != expected:
            raise ValueError(
                "`module` must map batches of `domain` to batches of `range`, which for two samples "
                f"are {expected}, got {received}"
            )

    def _call(self, x: Any) -> Any:
        return to_element(self.range, tree_map(lambda t: t.detach()[0].clone(), self._at(x).value))

    def forget(self) -> None:
        """Forget the value at the last point; to be called where weights of the module have changed."""
        self._at.forget()

    def derivative(self, point: Any) -> NetworkDerivative:
        """Return the derivative at `point`, a linear operator with an adjoint.

        Parameters
        ----------
        point : element of the domain
            Where to differentiate; it may be overwritten afterwards.
        """
        return NetworkDerivative(self, self._at(self.domain.element(point)))


class NetworkDerivative(odl.Operator):
    """Derivative of a `NetworkOperator` at a point, by forward differentiation; made by its `derivative`."""

    def __init__(self, operator: NetworkOperator, evaluation: Evaluation) -> None:
        super().__init__(operator.domain, operator.range, linear=True)
        self.operator = operator
        self._evaluation = evaluation

    def _call(self, h: Any) -> Any:
        return to_element(self.range, self._evaluation.pushforward(to_tensor(h)))

    @property
    def adjoint(self) -> NetworkDerivativeAdjoint:
        """The adjoint in the weighted inner products, by reverse differentiation."""
        return NetworkDerivativeAdjoint(self)


class NetworkDerivativeAdjoint(odl.Operator):
    """Adjoint of a `NetworkDerivative`."""

    def __init__(self, derivative: NetworkDerivative) -> None:
        super().__init__(derivative.range, derivative.domain, linear=True)
        self._derivative = derivative

    def _call(self, r: Any) -> Any:
        weighted = tree_map(lambda t, w: w * t, to_tensor(r), weight(self.domain))
        pulled = self._derivative._evaluation.pullback(weighted)
        return to_element(self.range, riesz(self.range, pulled))

    @property
    def adjoint(self) -> NetworkDerivative:
        """The derivative itself."""
        return self._derivative


class NetworkFunctional(odl.functionals.Functional):
    """A torch module with one output per sample as an ODL functional.

    As with `NetworkOperator`, the value and the gradient at one point cost one forward pass.

    Parameters
    ----------
    module : torch.nn.Module
        Maps batches of `domain` to real values ``(B,)``. It is put into eval mode and its parameters are
        frozen.
    domain : odl space
        Tensor space or product space of these.

    Raises
    ------
    TypeError
        If `module` is not a torch module.
    ValueError
        If its data type is not that of the space, or its output is not of shape ``(B,)``.
    """

    def __init__(self, module: nn.Module, domain: Space) -> None:
        super().__init__(domain, linear=False)
        self._at = LastPoint(module, domain)
        self.module = self._at.module
        output = trial(module, domain, self._at.device)
        if not isinstance(output, Tensor) or output.shape != (2,) or output.is_complex():
            received = tree_map(lambda t: (tuple(t.shape), t.dtype), output)
            raise ValueError(
                f"`module` must give one real number per sample, a shape of (2,) for two, got {received}"
            )

    def _call(self, x: Any) -> float:
        return self._at(x).value.item()

    @property
    def gradient(self) -> NetworkGradient:
        """The Riesz gradient as an operator on the domain: autograd's divided by the weight."""
        return NetworkGradient(self)


class NetworkGradient(odl.Operator):
    """Gradient of a `NetworkFunctional`."""

    def __init__(self, functional: NetworkFunctional) -> None:
        super().__init__(functional.domain, functional.domain, linear=False)
        self.functional = functional

    def _call(self, x: Any) -> Any:
        evaluation = self.functional._at(x)
        g = evaluation.pullback(torch.ones((), dtype=evaluation.value.dtype))
        return to_element(self.range, riesz(self.range, g))


def _on_batches(module: nn.Module, domain: Space) -> Callable[[Tensors], Tensors]:
    """Return the module on any number of batch axes."""
    ndim = tree_leaves(tree_map_spaces(domain, lambda s: len(space_shape(s))))[0]

    def fn(t: Tensors) -> Tensors:
        first = first_leaf(t)
        if first.ndim == ndim + 1:
            return apply(module, t)
        batch = first.shape[: first.ndim - ndim]
        n = math.prod(batch)
        flat = tree_map(lambda a: a.reshape(n, *a.shape[len(batch) :]), t)  # (n, *domain.shape)
        # (*batch, *range.shape)
        return tree_map(lambda a: a.reshape(batch + a.shape[1:]), apply(module, flat))

    return fn


@lower.register
def _lower_operator(op: NetworkOperator) -> TorchOperator:
    return TorchOperator(_on_batches(op.module, op.domain), op.domain, op.range)


@lower.register
def _lower_functional(op: NetworkFunctional) -> TorchFunctional:
    fn = _on_batches(op.module, op.domain)
    return TorchFunctional(fn, op.domain, name=f"NetworkFunctional({type(op.module).__name__})")
