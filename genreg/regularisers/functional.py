"""Any ODL functional of the image as a regulariser."""

from __future__ import annotations

from typing import Any

import odl
from odl.functionals import Functional, FunctionalComp
from torch import Tensor

from genreg.operators import TorchFunctional, to_torch
from genreg.operators.fidelity import Fidelity
from genreg.operators.lowering.splitting import is_smooth, terms
from genreg.regularisers.base import Regulariser
from genreg.regularisers.images import OnImages, TotalVariation
from genreg.solvers import Objective, SaddlePoint, lbfgs, pdhg


def as_regulariser(value: Regulariser | Functional) -> Regulariser:
    """Return a regulariser as it is, and an ODL functional of the image as one.

    Raises
    ------
    TypeError
        If it is neither.
    NotImplementedError
        If a term of the functional has neither a gradient nor a prox, see `OfFunctional`.
    """
    if isinstance(value, Regulariser):
        return value
    if not isinstance(value, Functional):
        raise TypeError(
            f"regulariser must be a genreg regulariser or an ODL functional, got {type(value).__name__}"
        )
    return OfFunctional(value)


class OfFunctional(OnImages):
    r"""An ODL functional R of the image, for example ``0.1 * L2NormSquared(X) + L1Norm(D.range) * D``.

    Where all its terms have gradients, problems are solved by `solvers.lbfgs`. Otherwise every term must be
    :math:`f(K x)`, with a prox of f and a linear operator K (or none), and problems are solved by `solvers.pdhg`,
    which needs a linear forward operator.

    Parameters
    ----------
    functional : Functional
        R, on the image space X.

    Raises
    ------
    NotImplementedError
        If a term has neither a gradient nor a prox.
    """

    def __init__(self, functional: Functional) -> None:
        super().__init__(functional.domain, functional)
        found = list(terms(functional))
        self._composed: list[tuple[float, Functional, odl.Operator]] | None = None
        if all(is_smooth(term) for _, term in found):
            self.solver = lbfgs
        else:
            self._composed = [_composed(scale, term) for scale, term in found if scale != 0]
            self.solver = pdhg

    def problem(self, fidelity: Fidelity, lam: Tensor, **parameters: Tensor) -> Objective | SaddlePoint:
        """The problem, see `Regulariser.problem`; in its saddle-point form where a term has no gradient."""
        if self._composed is None:
            return super().problem(fidelity, lam, **parameters)
        if not fidelity.operator.is_linear:
            raise ValueError(f"A must be linear for {self!r}, got {fidelity.operator!r}")
        first, rest = None, []
        for scale, f, K in self._composed:
            part = to_torch(f).scaled(scale).scaled(lam)
            if first is None and isinstance(K, odl.IdentityOperator):
                first = part
            else:
                rest.append((part, K))
        parts, operators = [g for g, _ in rest], [K for _, K in rest]
        return SaddlePoint(
            first or odl.functionals.ZeroFunctional(self.domain),
            [fidelity.on_data(), *parts],
            [fidelity.operator, *operators],
        )

    @property
    def gradient(self) -> odl.Operator:
        """Riesz gradient.

        Raises
        ------
        NotImplementedError
            If a term has none.
        """
        if self._composed is not None:
            raise NotImplementedError(f"{self!r} is not differentiable: solve with pdhg")
        return super().gradient


def _composed(scale: float, term: Functional) -> tuple[float, Functional, odl.Operator]:
    """A term as a factor, a functional with a prox, and a linear operator before it."""
    outer: Any = term.functional if isinstance(term, TotalVariation) else term
    K: odl.Operator = odl.IdentityOperator(term.domain)
    if isinstance(outer, FunctionalComp) and outer.right.is_linear:
        outer, K = outer.left, outer.right
    lowered = to_torch(outer)
    if not (isinstance(lowered, TorchFunctional) and lowered.has_prox) or scale < 0:
        raise NotImplementedError(
            "regulariser must consist of terms with a gradient, or of terms f(K x) with positive factors, a prox of f "
            f"and a linear K, got {scale:g} * {term!r}"
        )
    return scale, outer, K
