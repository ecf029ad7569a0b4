r"""Splitting a functional into the terms that have a gradient and the terms that have a prox.

ODL's algebra builds sums, multiples, translations and compositions. `terms` expands them,

.. math:: (a f + g + c)(B v - y) = a f(B v - y) + g(B v - y) + c,

down to functionals that are not sums. Such a term is taken to be smooth if it has a gradient and is not one of ODL's
norms and indicators, whose `gradient` is the derivative that they have almost everywhere. Every other term needs a
prox: `Functional.proximal`, or that of its lowering.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import odl
from odl.functionals import Functional
from odl.functionals import functional as algebra

from genreg.operators.bridge.lowered import TorchFunctional
from genreg.operators.bridge.protocols import Space
from genreg.operators.bridge.spaces import Tensors
from genreg.operators.bridge.translation import to_torch
from genreg.operators.lowering.functional_algebra import following

Term = tuple[float, Functional]
"""A factor and a functional that is not a sum."""

_NONSMOOTH = (
    odl.functionals.LpNorm,
    odl.functionals.GroupL1Norm,
    odl.functionals.NuclearNorm,
    odl.functionals.IndicatorBox,  # of which IndicatorNonnegativity is one
    odl.functionals.IndicatorZero,
)


@functools.singledispatch
def terms(functional: Functional) -> Iterator[Term]:
    """Yield ``(factor, term)`` whose sum is `functional`; no term is a sum.

    It dispatches on the class of the functional. A class that is a sum of smooth and proximable terms registers a
    generator that yields them by ``@terms.register(MyFunctional)``.
    """
    yield 1.0, functional


@terms.register(algebra.FunctionalSum)
def _(op: Any) -> Iterator[Term]:
    yield from terms(op.left)
    yield from terms(op.right)


@terms.register(algebra.FunctionalLeftScalarMult)
def _(op: Any) -> Iterator[Term]:
    for scale, term in terms(op.functional):
        yield float(op.scalar) * scale, term


@terms.register(algebra.FunctionalQuadraticPerturb)
def _(op: Any) -> Iterator[Term]:
    yield from terms(op.functional)
    zero = odl.functionals.ZeroFunctional(op.domain)
    yield (
        1.0,
        algebra.FunctionalQuadraticPerturb(zero, op.quadratic_coeff, op.linear_term, op.constant),
    )


@terms.register(algebra.FunctionalComp)
def _(op: Any) -> Iterator[Term]:
    outer, inner = op.left, op.right
    while isinstance(
        inner, odl.OperatorComp
    ):  # f((L R) v) = (f L)(R v): a projection becomes the last operator
        outer, inner = algebra.FunctionalComp(outer, inner.left), inner.right
    yield from _each(outer, op, lambda f: algebra.FunctionalComp(f, inner), moved=inner is not op.right)


@terms.register(algebra.FunctionalTranslation)
def _(op: Any) -> Iterator[Term]:
    yield from _each(op.functional, op, lambda f: algebra.FunctionalTranslation(f, op.translation))


@terms.register(algebra.FunctionalRightScalarMult)
def _(op: Any) -> Iterator[Term]:
    yield from _each(op.functional, op, lambda f: algebra.FunctionalRightScalarMult(f, op.scalar))


def _each(outer: Functional, op: Functional, wrap: Any, *, moved: bool = False) -> Iterator[Term]:
    """Yield the terms of `outer`, each wrapped; `op` itself if `outer` is a single term."""
    found = list(terms(outer))
    if len(found) == 1 and found[0][1] is outer and not moved:
        yield 1.0, op
        return
    for scale, term in found:
        yield scale, wrap(term)


def is_smooth(term: Functional) -> bool:
    """Whether a functional has a gradient everywhere, judged by its classes."""
    if isinstance(term, algebra.FunctionalComp):
        return is_smooth(term.left)
    if isinstance(term, (algebra.FunctionalSum, algebra.FunctionalProduct)):
        return is_smooth(term.left) and is_smooth(term.right)
    if isinstance(term, algebra.FunctionalQuotient):
        return is_smooth(term.dividend) and is_smooth(term.divisor)
    if isinstance(term, odl.functionals.SeparableSum):
        return all(is_smooth(part) for part in term.functionals)
    if isinstance(
        term,
        (
            algebra.FunctionalLeftScalarMult,
            algebra.FunctionalRightScalarMult,
            algebra.FunctionalRightVectorMult,
            algebra.FunctionalTranslation,
            algebra.FunctionalQuadraticPerturb,
            algebra.BregmanDistance,
        ),
    ):
        return is_smooth(term.functional)
    if isinstance(term, _NONSMOOTH) or (isinstance(term, odl.functionals.Huber) and term.gamma == 0):
        return False
    try:
        return term.gradient is not None
    except NotImplementedError:
        return False


def proximable(scale: float, term: Functional) -> TorchFunctional:
    """Lower ``scale * term``, a term without a gradient.

    Raises
    ------
    NotImplementedError
        If it has no prox or the factor is negative.
    """
    lowered = to_torch(term)
    if not lowered.has_prox or scale < 0:
        reason = f"the negative factor {scale:g}" if lowered.has_prox else "no prox"
        raise NotImplementedError(
            f"the functional must consist of terms with a gradient or a prox; this one has no gradient and {reason}: "
            f"{term!r} (a smooth stand-in for a norm is odl.functionals.Huber)"
        )
    return lowered.scaled(scale)


def split(functional: Functional) -> tuple[TorchFunctional | None, TorchFunctional | None]:
    r"""Split a functional on one space into a smooth and a proximable part, :math:`f = H + g`.

    Parameters
    ----------
    functional : Functional
        Any composition of ODL's algebra, for example ``0.3 * L2NormSquared(Z) + IndicatorBox(Z, -2, 2)``.

    Returns
    -------
    smooth : TorchFunctional or None
        The sum of all terms that have a gradient.
    proximable : TorchFunctional or None
        The one term that has none, with its prox in the norm of the space.

    Raises
    ------
    TypeError
        If `functional` is not an ODL functional.
    NotImplementedError
        If a term has neither a gradient nor a prox, or two terms have no gradient.
    """
    if not isinstance(functional, Functional):
        raise TypeError(f"functional must be an ODL functional, got {type(functional).__name__}")
    smooth: list[tuple[float, Any]] = []
    rough: list[tuple[float, Functional]] = []
    for scale, term in terms(functional):
        if scale == 0:
            continue
        if is_smooth(term):
            smooth.append((scale, to_torch(term)))
        else:
            rough.append((scale, term))
    if len(rough) > 1:
        names = " and ".join(repr(term) for _, term in rough)
        raise NotImplementedError(
            f"the functional may have one term without a gradient, as the prox of a sum is not known; got {names}"
        )
    return (
        summed(smooth, functional.domain) if smooth else None,
        proximable(*rough[0]) if rough else None,
    )


def summed(parts: list[tuple[float, Any]], domain: Space) -> TorchFunctional:
    """Return the weighted sum of lowered functionals, with a method `take` that takes the samples of its parts."""
    scales = [scale for scale, _ in parts]

    def build(*functionals: TorchFunctional) -> TorchFunctional:
        pairs = list(zip(scales, functionals, strict=True))

        def value(t: Tensors) -> Any:
            return sum(f(t) if scale == 1 else scale * f(t) for scale, f in pairs)

        return TorchFunctional(value, domain, name=" + ".join(f.name for f in functionals))

    return following(build, *(f for _, f in parts)).pickled_as(summed, parts, domain)
