"""Hypothesis strategies for random ODL functionals on random spaces; see `strategies`."""

import math

import odl
from hypothesis import strategies as st
from odl import functionals as F

from .strategies import (
    NUMBERS,
    POSITIVE,
    elements,
    endomorphisms,
    is_complex,
    is_plain,
    is_power,
    is_product,
    maps,
    numbers,
    spaces,
)

SIMPLE = {  # what it needs of its space, and how it is made
    "L1Norm": (lambda s: True, lambda s: F.L1Norm(s)),
    "L2Norm": (lambda s: True, lambda s: F.L2Norm(s)),
    "L2NormSquared": (lambda s: True, lambda s: F.L2NormSquared(s)),
    "LpNorm": (lambda s: not is_product(s), lambda s: F.LpNorm(s, 3)),
    "LpNorm, 1.5": (lambda s: not is_product(s), lambda s: F.LpNorm(s, 1.5)),
    "LpNorm, 0": (lambda s: not is_product(s), lambda s: F.LpNorm(s, 0)),
    "maximum": (lambda s: not is_product(s), lambda s: F.LpNorm(s, math.inf)),
    "GroupL1Norm": (is_power, lambda s: F.GroupL1Norm(s)),
    "GroupL1Norm, 1": (is_power, lambda s: F.GroupL1Norm(s, exponent=1)),
    "Huber": (lambda s: is_power(s) or not is_product(s), lambda s: F.Huber(s, 0.5)),
    "KullbackLeibler": (lambda s: not is_complex(s), lambda s: F.KullbackLeibler(s)),
    "KullbackLeibler conjugate": (
        lambda s: not is_complex(s),
        lambda s: F.KullbackLeibler(s).convex_conj * -1.0,
    ),
    "IndicatorBox": (lambda s: not is_complex(s), lambda s: F.IndicatorBox(s, -0.5, 0.7)),
    "IndicatorNonnegativity": (lambda s: not is_complex(s), lambda s: F.IndicatorNonnegativity(s)),
    "IndicatorZero": (lambda s: True, lambda s: F.IndicatorZero(s, 2.0)),
    "ball": (lambda s: not is_product(s), lambda s: F.IndicatorLpUnitBall(s, 2)),
    "ball of the maximum": (lambda s: not is_product(s), lambda s: F.IndicatorLpUnitBall(s, math.inf)),
    "group ball": (is_power, lambda s: F.GroupL1Norm(s).convex_conj),
    "constant": (lambda s: True, lambda s: F.ConstantFunctional(s, 3.0)),
    "zero": (lambda s: True, lambda s: F.ZeroFunctional(s)),
}


@st.composite
def functionals(draw, space, depth=2, convex=False):
    """Functionals on a space; `convex` leaves out what can have no proximal operator."""
    productions = [name for name, (fits, _) in SIMPLE.items() if fits(space)]
    productions += ["prior", "box"] * (not is_complex(space)) + ["linear", "quadratic"]
    if is_product(space):
        productions += ["component"] + ["separable", "separable"] * is_plain(space)
    if depth > 0:
        productions += [
            "multiple",
            "scaled",
            "translation",
            "offset",
            "perturbation",
            "envelope",
            "conjugate",
        ] * 2
        productions += ["composition with a number"] + ["bregman"] * (not is_complex(space))
        if not convex:
            productions += ["sum", "difference", "product", "quotient", "form", "vector"]
            productions += ["composition", "composition", "map", "map", "nonlinear"]

    def part(s=space):
        return draw(functionals(s, depth - 1, convex))

    match draw(st.sampled_from(productions)):
        case "prior":
            return F.KullbackLeibler(space, draw(elements(space, positive=True)))
        case "box":
            upper = draw(st.sampled_from([None, 0.7, draw(elements(space, positive=True))]))
            return F.IndicatorBox(space, -draw(elements(space, positive=True)), upper)
        case "linear":
            return F.QuadraticForm(vector=draw(elements(space)), constant=draw(NUMBERS))
        case "quadratic":
            return F.QuadraticForm(odl.ScalingOperator(space, draw(POSITIVE)), draw(elements(space)))
        case "form":
            return F.QuadraticForm(draw(endomorphisms(space, 1)), draw(elements(space)), draw(NUMBERS))
        case "separable":
            return F.SeparableSum(*(draw(functionals(s, min(depth, 1) - 1, convex)) for s in space))
        case "component":
            i = draw(st.integers(0, len(space) - 1))
            return draw(functionals(space[i], 0, convex)) * odl.ComponentProjection(space, i)
        case "multiple":
            return draw(POSITIVE if convex else numbers(space)) * part()
        case "scaled":
            # with 0 ODL takes the value at 0, which may not exist
            return part() * (draw(numbers(space)) or 1.5)
        case "translation":
            return part().translated(draw(elements(space)))
        case "offset":
            return part() + draw(numbers(space))
        case "perturbation":
            a = draw(st.sampled_from([0.0, 0.5, 2.0]))
            return F.FunctionalQuadraticPerturb(part(), a, draw(elements(space)), draw(NUMBERS))
        case "envelope":
            return F.MoreauEnvelope(part(), draw(POSITIVE))
        case "conjugate":
            f = part()
            try:
                return f.convex_conj
            except (NotImplementedError, TypeError, ValueError):  # for multiples that are not positive
                return f
        case "bregman":
            f, x = draw(st.sampled_from([F.L2NormSquared, F.L2Norm]))(space), draw(elements(space))
            return F.BregmanDistance(f, x, f.gradient(x))
        case "composition with a number":
            return part() * odl.ScalingOperator(space, draw(numbers(space)))
        case "sum":
            return part() + part()
        case "difference":
            return part() - part()
        case "product":
            return F.FunctionalProduct(part(), part())
        case "quotient":
            return F.FunctionalQuotient(part(), F.L2NormSquared(space) + 1.0)
        case "vector":
            return part() * draw(elements(space))
        case "composition":
            return part() * draw(endomorphisms(space, 1))
        case "nonlinear":
            return part() * draw(endomorphisms(space, 1, linear=False))
        case "map":
            A = draw(maps(space, draw(st.booleans())))
            if not isinstance(A.range, odl.core.set.LinearSpace) or A.range.field is None:
                return part()
            return draw(functionals(A.range, depth - 1, convex)) * A
        case simple:
            return SIMPLE[simple][1](space)


@st.composite
def random_functionals(draw, dtypes=("float64", "complex128", "float32", "complex64"), convex=False):
    """Functionals on random spaces."""
    return draw(functionals(draw(spaces(dtypes)), convex=convex))
