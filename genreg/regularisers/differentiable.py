"""Functionals and their gradients by automatic differentiation, as ODL has them."""

from __future__ import annotations

from typing import Any

import odl
import torch
from odl.functionals import Functional

from genreg.operators import TorchFunctional, lower, riesz, to_element, to_tensor, to_torch
from genreg.operators.bridge.modes import undisturbed
from genreg.operators.bridge.spaces import tree_leaves, tree_map


class Lowered(Functional):
    """A functional given by its lowered form: differentiable by autograd unless it has a prox."""

    def __init__(self, lowered: TorchFunctional) -> None:
        super().__init__(space=lowered.domain, linear=False)
        self.lowered = lowered

    def _call(self, v: Any) -> float:
        with torch.no_grad():
            return float(self.lowered(to_tensor(v)))

    @property
    def gradient(self) -> Gradient:
        """Riesz gradient; NotImplementedError where there is a proximal operator instead."""
        if self.lowered.has_prox:
            raise NotImplementedError(f"{self.lowered.name} has a proximal operator instead of a gradient")
        return Gradient(self)


@lower.register(Lowered)
def _(op: Lowered) -> TorchFunctional:
    return op.lowered


class Gradient(odl.Operator):
    """Riesz gradient of a functional whose lowered form autograd can differentiate."""

    def __init__(self, functional: Functional) -> None:
        super().__init__(functional.domain, functional.domain, linear=False)
        self.value = to_torch(functional)

    def _call(self, v: Any) -> Any:  # ODL looks at its arguments, which a decorator hides
        return self._at(v)

    @undisturbed
    def _at(self, v: Any) -> Any:
        with torch.enable_grad():
            leaf = tree_map(lambda t: t.clone().requires_grad_(), to_tensor(v))
            gradient = iter(torch.autograd.grad(self.value(leaf), tree_leaves(leaf), materialize_grads=True))
        return to_element(self.domain, riesz(self.domain, tree_map(lambda t: next(gradient), leaf)))
