"""Regularisers of the image itself, and the baselines among them: Tikhonov and total variation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import odl
import torch
from odl.core.space.base_tensors import TensorSpace
from odl.functionals import Functional
from torch import Tensor

from genreg.operators import (
    TorchFunctional,
    lower,
    to_torch,
    torch_dtype,
)
from genreg.operators.bridge.arguments import described, number
from genreg.operators.bridge.protocols import StackedSpace
from genreg.operators.fidelity import Fidelity
from genreg.operators.lowering.splitting import Term, terms
from genreg.operators.lowering.total_variation import VariationProximal, total_variation
from genreg.regularisers.base import Regulariser
from genreg.solvers import SaddlePoint, conjugate_gradient, pdhg
from genreg.solvers.problem.objective import Blocks


class OnImages(Regulariser):
    """A regulariser given as a functional on the image space; it starts from ``_first``, zero unless said."""

    blocks = ("x",)
    _first = "zero"

    def __init__(self, space: StackedSpace, functional: Functional) -> None:
        super().__init__(space=space, linear=False)
        self.image = odl.IdentityOperator(space)
        self.functional = functional
        self.value = to_torch(functional)

    def smooth(self, blocks: Blocks, **parameters: float | Tensor) -> Tensor:
        """The functional at x."""
        return self.value(blocks["x"])

    def start(
        self, fidelity: Fidelity, init: str | None, restarts: int, generator: torch.Generator
    ) -> Blocks:
        """Start from ``"zero"`` or from the ``"rough"`` reconstruction."""
        init = init or self._first
        if init not in ("zero", "rough"):
            raise ValueError(f"init must be 'zero', 'rough' or blocks, got {init!r}")
        if init == "rough":
            x = fidelity.rough()
        else:
            shape = (len(fidelity.data), *self.domain.shape)
            x = torch.zeros(shape, dtype=torch_dtype(self.domain), device=fidelity.data.device)
        return {"x": x.repeat_interleave(restarts, 0)}

    def lam_scale(self, fidelity: Fidelity, blocks: Blocks, **parameters: Tensor) -> Tensor:
        """Make both terms equal at a rough reconstruction, see `Regulariser.balanced`; 1 of a density."""
        if self.offset is not None:
            return super().lam_scale(fidelity, blocks, **parameters)
        return self.balanced(fidelity, {"x": fidelity.rough()}, **parameters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.functional!r})"


class Tikhonov(OnImages):
    r"""Tikhonov regularisation, :math:`\|L x\|^2` in the norm of the range of L.

    Problems are solved by `solvers.conjugate_gradient`, which needs a linear forward operator and a Gaussian
    fidelity; for others pass ``solver=solvers.gradient_descent``.

    Parameters
    ----------
    space : ODL space
        The image space X.
    operator : odl.Operator, optional
        L, linear, by default the identity.
    """

    solver = staticmethod(conjugate_gradient)

    def __init__(self, space: StackedSpace, operator: odl.Operator | None = None) -> None:
        check_space(space)
        L = odl.IdentityOperator(space) if operator is None else operator
        if not isinstance(L, odl.Operator) or not L.is_linear or L.domain != space:
            raise ValueError(f"operator must be a linear ODL operator on {space!r}, got {L!r}")
        super().__init__(space, odl.functionals.L2NormSquared(L.range) * L)


class TotalVariation(OnImages):
    r"""Isotropic total variation, :math:`\| |\nabla x|_2 \|_1`, in the norms of the space X.

    The gradient is by forward differences divided by the cell size, with no difference across the boundary;
    the sum carries the cell volume. Optional bounds on x are imposed as constraints. Problems are solved by
    `solvers.pdhg`.

    Parameters
    ----------
    space : ODL space
        The image space X, a `uniform_discr`.
    lower, upper : float, optional
        Bounds of real images, for example ``lower=0`` for non-negativity.

    Raises
    ------
    TypeError, ValueError
        If the space is no `uniform_discr`, or a bound is no number, not below the other one, or given for complex
        images.

    References
    ----------
    L. I. Rudin, S. Osher, E. Fatemi (1992), Nonlinear total variation based noise removal algorithms,
    doi:10.1016/0167-2789(92)90242-F.
    """

    solver = staticmethod(pdhg)

    def __init__(
        self, space: StackedSpace, *, lower: float | None = None, upper: float | None = None
    ) -> None:
        check_space(space)
        if not hasattr(space, "partition"):
            raise TypeError(f"space must be a discretised function space (uniform_discr), got {space!r}")
        low, high = self.bounds = _bound(lower, "lower"), _bound(upper, "upper")
        if self.bounds != (None, None) and torch_dtype(space).is_complex:
            raise TypeError(f"lower and upper must be None for complex images, got {lower} and {upper}")
        if low is not None and high is not None and not low < high:
            raise ValueError(f"lower must be smaller than upper, got {lower} and {upper}")
        self.derivative_operator = odl.Gradient(space, method="forward", pad_mode="symmetric")
        norm = odl.functionals.GroupL1Norm(self.derivative_operator.range)
        super().__init__(space, norm * self.derivative_operator)

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> SaddlePoint:
        """The saddle-point form: bounds on x, the fidelity of A x and λ times the norm of ∇x."""
        if not fidelity.operator.is_linear:
            raise ValueError(f"A must be linear for TotalVariation, got {fidelity.operator!r}")
        box = (
            odl.functionals.ZeroFunctional(self.domain)
            if self.bounds == (None, None)
            else odl.functionals.IndicatorBox(self.domain, *self.bounds)
        )
        norm = to_torch(odl.functionals.GroupL1Norm(self.derivative_operator.range)).scaled(lam)
        terms, operators = [fidelity.on_data(), norm], [fidelity.operator, self.derivative_operator]
        return SaddlePoint(box, terms, operators, fidelity.expected)

    @property
    def gradient(self) -> odl.Operator:
        """There is none.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("TotalVariation is not differentiable: solve with pdhg")

    @property
    def proximal(self) -> Callable[[float], odl.Operator]:
        r"""Factory: ``proximal(sigma)(x)`` minimises :math:`R(u) + \|u - x\|_X^2 / (2 \sigma)`, by inner iterations.

        Raises
        ------
        NotImplementedError
            On a complex space, and where there are bounds, which the value does not know.
        """
        if self.bounds != (None, None) or torch_dtype(self.domain).is_complex:
            raise NotImplementedError(f"no proximal operator is known for {self!r}")
        return functools.partial(VariationProximal, to_torch(self))

    def __repr__(self) -> str:
        return f"TotalVariation({self.domain!r}, lower={self.bounds[0]}, upper={self.bounds[1]})"


@lower.register(TotalVariation)
def _(op: TotalVariation) -> TorchFunctional:
    if op.bounds != (None, None) or torch_dtype(op.domain).is_complex:
        return TorchFunctional(op.value.fn, op.domain, name="TotalVariation")
    return total_variation(op.domain, iterations=2000, memory=False)


@terms.register(TotalVariation)
def _(op: TotalVariation) -> Iterator[Term]:
    yield 1.0, op
    if op.bounds != (None, None):
        yield 1.0, odl.functionals.IndicatorBox(op.domain, *op.bounds)


def check_space(space: StackedSpace) -> None:
    """Check the space of the images.

    Raises
    ------
    TypeError
        If it is no tensor or function space.
    """
    if not isinstance(space, TensorSpace):
        raise TypeError(f"space must be an ODL tensor or function space, got {described(space)}")


def _bound(value: Any, name: str) -> float | None:
    """A bound of the images, None where there is none."""
    if value is None or (isinstance(value, Real) and math.isinf(value)):
        return None if value is None or (value < 0) == (name == "lower") else number(value, name)
    return number(value, name)
