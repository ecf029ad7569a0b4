"""Lowered functionals against ODL: values, gradients, proximal operators; and these against brute force."""

import math

import odl
import pytest
import torch
from odl import functionals as F

from genreg.operators import TorchFunctional, lower, to_element, to_torch
from genreg.operators.bridge.spaces import tree_map
from genreg.operators.bridge.weights import riesz

from ..samples import BATCHES, ROUNDING, assert_equal_samples, element, random, samples

X = odl.uniform_discr([0, 0], [0.2, 0.3], (4, 5))  # cell volume 0.003
CX = odl.uniform_discr([0, 0], [20, 30], (4, 5), dtype="complex128")  # cell volume 30
R6, R3, C6 = odl.rn(6), odl.rn(3, weighting=0.3), odl.cn(6)
W6 = odl.rn(6, weighting=[0.5, 1, 2, 3, 1.5, 0.1])
XT = odl.uniform_discr([0, 0], [0.2, 0.3], (4, 5), impl="pytorch")
P = odl.ProductSpace(X, R3)


def form():
    return F.QuadraticForm(odl.Laplacian(X), element(X), 2.0)


def complex_form():
    return F.QuadraticForm(odl.MultiplyOperator(element(CX)), element(CX, 6), 2.0 - 1j)


# id: (functional, what ODL has right: g gradient, p prox, c prox of the conjugate, - not even the value;
# + for positive arguments)
CASES = {
    "L1": (lambda: F.L1Norm(X), "gpc"),
    "L1-product": (lambda: F.L1Norm(X**2), "gpc"),
    "L1-array-weight": (lambda: F.L1Norm(W6), "gpc"),
    "L1-pytorch": (lambda: F.L1Norm(XT), "gpc"),
    "L2": (lambda: F.L2Norm(X), "gpc"),
    "L2-product": (lambda: F.L2Norm(P), "gpc"),
    "L2-array-weight": (lambda: F.L2Norm(W6), "gpc"),
    "L2-complex": (lambda: F.L2Norm(CX), "gpc-"),
    "L2Squared": (lambda: F.L2NormSquared(X), "gpc"),
    "L2Squared-product": (lambda: F.L2NormSquared(P), "gpc"),
    "L2Squared-complex": (lambda: F.L2NormSquared(CX), "gpc"),
    "L3": (lambda: F.LpNorm(X, 3), ""),
    "Linf": (lambda: F.LpNorm(R6, math.inf), ""),
    "L-inf": (lambda: F.LpNorm(R6, -math.inf), ""),
    "GroupL1": (lambda: F.GroupL1Norm(X**2), "gpc"),
    "GroupL1-1": (lambda: F.GroupL1Norm(X**2, exponent=1), "pc"),
    "GroupL1-complex": (lambda: F.GroupL1Norm(CX**2), "pc"),
    "GroupL1-3": (lambda: F.GroupL1Norm(X**2, exponent=3), "g"),
    "Huber": (lambda: F.Huber(X, 0.5), "gpc"),
    "Huber-product": (lambda: F.Huber(X**2, 0.5), "gc"),
    "Huber-0": (lambda: F.Huber(X, 0), ""),
    "KullbackLeibler": (lambda: F.KullbackLeibler(X), "gpc+"),
    "KullbackLeibler-prior": (lambda: F.KullbackLeibler(X, element(X, positive=True)), "gpc+"),
    "KullbackLeibler-conj": (
        lambda: F.KullbackLeibler(X, element(X, positive=True)).convex_conj * -1.0,
        "g+",
    ),
    "QuadraticForm": (form, "g"),
    "QuadraticForm-vector": (lambda: F.QuadraticForm(vector=element(X), constant=1.0), "g"),
    "QuadraticForm-scaling": (lambda: F.QuadraticForm(odl.IdentityOperator(X), element(X)), "g"),
    "IndicatorBox": (lambda: F.IndicatorBox(X, -0.3, 0.4), "pc"),
    "IndicatorBox-lower": (lambda: F.IndicatorBox(X, -0.3), "pc"),
    "IndicatorBox-elements": (lambda: F.IndicatorBox(X, -1.0, X.one()), "pc"),
    "IndicatorNonnegativity": (lambda: F.IndicatorNonnegativity(X), "pc"),
    "IndicatorNonnegativity-product": (lambda: F.IndicatorNonnegativity(P), "pc"),
    "IndicatorBox-inside": (lambda: F.IndicatorBox(X, -9, 9), "pc"),
    "IndicatorZero": (lambda: F.IndicatorZero(X, 2.0), "pc"),
    "ball-inf": (lambda: F.IndicatorLpUnitBall(X, math.inf), "pc"),
    "ball-2": (lambda: F.IndicatorLpUnitBall(X, 2), "pc"),
    "ball-2-complex": (lambda: F.IndicatorLpUnitBall(CX, 2), "pc-"),
    "group-ball": (lambda: F.GroupL1Norm(X**2).convex_conj, "pc"),
    "group-ball-inf": (lambda: F.GroupL1Norm(X**2, exponent=1).convex_conj, "p"),
    "Constant": (lambda: F.ConstantFunctional(X, 3.0), "gp"),
    "Zero": (lambda: F.ZeroFunctional(P), "gp"),
    "SeparableSum": (lambda: F.SeparableSum(F.L1Norm(X), F.L2NormSquared(R3)), "gpc"),
    "SeparableSum-power": (lambda: F.SeparableSum(F.L1Norm(X), F.L2Norm(X)), "gpc"),
    "left-scalar": (lambda: 2.5 * F.L1Norm(X), "gpc"),
    "negative-scalar": (lambda: -2.0 * F.L2NormSquared(X), "g"),
    "right-scalar": (lambda: F.L1Norm(X) * -2.5, "gpc"),
    "right-vector": (lambda: F.L2NormSquared(X) * element(X), "g"),
    "translation": (lambda: F.L1Norm(X).translated(element(X)), "gpc"),
    "translation-product": (lambda: F.L2NormSquared(P).translated(element(P)), "gpc"),
    "translation-squared": (lambda: 0.7 * F.L2NormSquared(X).translated(element(X)), "gpc"),
    "translation-complex": (lambda: F.L2NormSquared(CX).translated(element(CX)), "gpc"),
    "translation-scaled": (lambda: 0.7 * F.L2Norm(X).translated(element(X)), "gpc"),
    "translation-twice": (lambda: F.Huber(X, 0.2).translated(element(X)).translated(element(X, 6)), "gpc"),
    "quadratic-perturb": (
        lambda: F.FunctionalQuadraticPerturb(F.L1Norm(X), 0.7, element(X), 2.0),
        "gp",
    ),
    "linear-perturb": (lambda: F.FunctionalQuadraticPerturb(F.L2Norm(X), 0, element(X)), "gpc"),
    "quadratic-perturb-product": (
        lambda: F.FunctionalQuadraticPerturb(F.L1Norm(X**2), 1.5, element(X**2)),
        "gp",
    ),
    "sum": (lambda: F.L1Norm(X) + F.L2NormSquared(X), "g"),
    "scalar-sum": (lambda: F.L1Norm(X) + 3.0, "gp"),
    "difference": (lambda: F.L2NormSquared(X) - F.L1Norm(X), "g"),
    "product": (lambda: F.FunctionalProduct(F.L1Norm(X), F.L2NormSquared(X)), "g"),
    "quotient": (lambda: F.FunctionalQuotient(F.L1Norm(X), F.L2NormSquared(X)), "g"),
    "bregman": (lambda: F.BregmanDistance(F.L2NormSquared(X), element(X), 2.0 * element(X)), "gp"),
    "composition": (lambda: F.GroupL1Norm(X**2) * odl.Gradient(X), "g"),
    "composition-data": (
        lambda: F.L2NormSquared(X).translated(element(X)) * odl.Laplacian(X) + F.L1Norm(X),
        "g",
    ),
    "composition-nonlinear": (lambda: F.L2NormSquared(X) * odl.PowerOperator(X, 2), "g"),
    "composition-complex": (lambda: F.L2NormSquared(CX).translated(element(CX)) * odl.Laplacian(CX), "g"),
    "composition-product": (
        lambda: (
            F.SeparableSum(F.GroupL1Norm(X**2), F.L2NormSquared(X))
            * odl.BroadcastOperator(odl.Gradient(X), odl.IdentityOperator(X))
        ),
        "g",
    ),
    "components": (
        lambda: F.L1Norm(X) * odl.ComponentProjection(P, 0) + F.L2Norm(R3) * odl.ComponentProjection(P, 1),
        "g",
    ),
    "QuadraticForm-complex": (complex_form, ""),
    "QuadraticForm-complex-vector": (lambda: F.QuadraticForm(vector=element(CX)), ""),
    "quadratic-perturb-complex": (
        lambda: F.FunctionalQuadraticPerturb(F.L2NormSquared(CX), 0.7, element(CX), 2.0),
        "p",
    ),
    "bregman-complex": (lambda: F.BregmanDistance(F.L2NormSquared(CX), element(CX), 2.0 * element(CX)), "gp"),
    "product-complex": (lambda: F.FunctionalProduct(complex_form(), complex_form()), ""),
    "quotient-complex": (lambda: F.FunctionalQuotient(F.ConstantFunctional(CX, 1j), complex_form()), ""),
    "product-constants": (
        lambda: F.FunctionalProduct(F.ConstantFunctional(C6, 1 + 2j), F.ConstantFunctional(C6, 1 + 2j)),
        "",
    ),
    "multiple-complex": (lambda: (2 - 1j) * (complex_form() + 1j), ""),
    "sum-of-products-complex": (
        lambda: F.FunctionalProduct(complex_form() * 2.0, complex_form().translated(element(CX)) + 3.0),
        "",
    ),
    "complex-functional-of-functional": (
        lambda: F.FunctionalProduct(
            F.IdentityFunctional(odl.ComplexNumbers()) * complex_form(), complex_form()
        ),
        "",
    ),
    "separable-complex": (
        lambda: F.FunctionalProduct(*2 * [F.SeparableSum(complex_form(), F.ConstantFunctional(C6, 1j))]),
        "",
    ),
    "functional-of-functional": (lambda: F.IdentityFunctional(odl.RealNumbers()) * F.L2NormSquared(X), ""),
}


def having(flag):
    return pytest.mark.parametrize(
        "name", [name for name, (_, flags) in CASES.items() if flag is None or flag in flags]
    )


def made(name, batch):
    make, flags = CASES[name]
    f = make()
    return f, random(f.domain, batch, positive="+" in flags)


@pytest.mark.parametrize("batch", BATCHES)
@having(None)
def test_values_are_those_of_odl(name, batch):
    f, t = made(name, batch)
    values = to_torch(f)(t)
    assert values.shape == batch and values.dtype == torch.float64
    if "-" in CASES[name][1]:
        return
    expected = [complex(f(x)).real for x in samples(f.domain, t)]
    torch.testing.assert_close(values.reshape(-1), torch.tensor(expected, dtype=torch.float64), **ROUNDING)


@pytest.mark.parametrize("batch", BATCHES)
@having("g")
def test_gradients_are_those_of_odl(name, batch):
    f, t = made(name, batch)
    t = tree_map(lambda a: a.requires_grad_(), t)
    leaves = t if isinstance(t, tuple) else (t,)
    g = torch.autograd.grad(to_torch(f)(t).sum(), leaves)
    g = riesz(f.domain, g if isinstance(t, tuple) else g[0])
    gradient = f.gradient
    assert_equal_samples(f.domain, g, [gradient(x) for x in samples(f.domain, t)])


@having("g")
def test_vmap_jvp_and_second_derivatives(name):
    f, t = made(name, (3,))
    lowered, h = to_torch(f), random(f.domain, (3,), seed=1)
    value, slope = torch.func.jvp(lowered.fn, (t,), (h,))
    torch.testing.assert_close(value, lowered(t))
    expected = [
        complex(f.gradient(x).inner(d)).real
        for x, d in zip(samples(f.domain, t), samples(f.domain, h), strict=True)
    ]
    torch.testing.assert_close(slope, torch.tensor(expected, dtype=torch.float64), **ROUNDING)
    torch.testing.assert_close(torch.func.vmap(lowered.fn)(t), value)
    gradient = torch.func.grad(lambda t: lowered(t).sum())
    second = torch.func.jvp(gradient, (t,), (h,))[1]
    tree_map(lambda a: torch.testing.assert_close(a, a.nan_to_num()), second)


def test_values_that_odl_does_not_give():
    t = random(CX, (3,))
    norms = torch.tensor([x.norm() for x in samples(CX, t)], dtype=torch.float64)
    torch.testing.assert_close(to_torch(F.L2Norm(CX))(t), norms, **ROUNDING)
    torch.testing.assert_close(to_torch(F.L1Norm(CX))(t), 30 * t.abs().sum((-2, -1)), **ROUNDING)
    small = t / (2 * norms.reshape(3, 1, 1))
    ball = to_torch(F.IndicatorLpUnitBall(CX, 2))
    assert (ball(small) == 0).all() and ball(3 * small).isinf().all()


def steps(kind, batch):
    return 0.3 if kind == "number" else 0.1 + torch.rand(batch, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["number", "per sample"])
@pytest.mark.parametrize("batch", [(), (7,)])
@having("p")
def test_prox_is_that_of_odl(name, batch, kind):
    f, t = made(name, batch)
    step = steps(kind, batch)
    result = to_torch(f).prox(t, step)
    each = torch.as_tensor(step, dtype=torch.float64).expand(batch).reshape(-1).tolist()
    expected = [f.proximal(s)(x) for s, x in zip(each, samples(f.domain, t), strict=True)]
    assert_equal_samples(f.domain, result, expected)


@pytest.mark.parametrize("kind", ["number", "per sample"])
@pytest.mark.parametrize("batch", [(), (7,)])
@having("c")
def test_conj_prox_is_that_of_odl(name, batch, kind):
    f, t = made(name, batch)
    step = steps(kind, batch)
    result = to_torch(f).conj_prox(t, step)
    each = torch.as_tensor(step, dtype=torch.float64).expand(batch).reshape(-1).tolist()
    conj = f.convex_conj
    expected = [conj.proximal(s)(x) for s, x in zip(each, samples(f.domain, t), strict=True)]
    assert_equal_samples(f.domain, result, expected)


# Functionals whose prox ODL lacks or gets wrong, and some it gets right: the prox against minimisation.
BRUTE_FORCE = {
    "L1-complex": lambda: F.L1Norm(C6),
    "Huber-product": lambda: F.Huber(X**2, 0.5),
    "Huber-complex": lambda: F.Huber(CX, 0.5),
    "GroupL1-weighted": lambda: F.GroupL1Norm(odl.ProductSpace(X, 2, weighting=3.0)),
    "GroupL1": lambda: F.GroupL1Norm(X**2),
    "QuadraticForm-vector": lambda: F.QuadraticForm(vector=element(X), constant=1.0),
    "QuadraticForm-scaling": lambda: F.QuadraticForm(odl.ScalingOperator(X, 2.0), element(X)),
    "scaled-argument": lambda: F.L2Norm(X) * odl.ScalingOperator(X, -3.0),
    "component": lambda: F.L1Norm(X) * odl.ComponentProjection(P, 0),
    "component-last": lambda: F.L2Norm(X) * odl.ComponentProjection(X**3, -1),
    "quadratic-perturb": lambda: F.FunctionalQuadraticPerturb(F.L2Norm(X), 0.7, element(X), 2.0),
    "bregman": lambda: F.BregmanDistance(F.L1Norm(W6), element(W6), 0.3 * element(W6)),
    "L2-array-weight": lambda: F.L2Norm(W6),
    "Huber-array-weight": lambda: F.Huber(W6, 0.3),
    "KullbackLeibler-array-weight": lambda: F.KullbackLeibler(W6, element(W6, positive=True)),
    "GroupL1-1-weighted-product": lambda: F.GroupL1Norm(odl.ProductSpace(X, 2, weighting=0.4), exponent=1),
    "GroupL1-1-weighted-product-complex": lambda: F.GroupL1Norm(
        odl.ProductSpace(CX, 2, weighting=0.4), exponent=1
    ),
    "envelope": lambda: F.MoreauEnvelope(F.L2Norm(W6).translated(element(W6)), 0.7),
    "nested": lambda: 0.5 * (2.0 * F.L1Norm(X).translated(element(X)) * 3.0).translated(element(X, 6)),
}


@pytest.mark.parametrize("name", BRUTE_FORCE)
def test_prox_minimises(name):
    """No nearby point, however near, has a smaller value of step f(u) + |u - t|² / 2."""
    f = BRUTE_FORCE[name]()
    lowered = to_torch(f)
    t, step = random(f.domain, (64,)), 0.8
    t = tree_map(lambda a: a[:1].expand_as(a), t)

    def objective(u):
        return step * lowered(u) + to_torch(F.L2NormSquared(f.domain))(tree_map(torch.sub, u, t)) / 2

    best = lowered.prox(t, step)
    value = objective(best)
    for scale in (1.0, 1e-2, 1e-4):
        for sparse in (False, True):
            d = random(f.domain, (64,), seed=3)
            if sparse:
                d = tree_map(lambda a: a * (torch.rand(a.shape) < 0.1), d)
            u = tree_map(lambda b, h, s=scale: b + s * h, best, d)
            assert (objective(u) >= value - 1e-13 * (1 + value.abs())).all()


@pytest.mark.parametrize("name", [n for n, (_, flags) in CASES.items() if "p" in flags])
def test_moreau_identity_and_scaling(name):
    """conj_prox and scaled follow from prox, whichever formula computes them."""
    f, t = made(name, (3,))
    lowered = to_torch(f)
    plain = TorchFunctional(lowered.fn, f.domain, lowered._prox)  # without a direct conj_prox
    sigma, lam = 0.7, torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    assert_trees_close(lowered.conj_prox(t, sigma), plain.conj_prox(t, sigma))
    assert_trees_close(lowered.scaled(lam).conj_prox(t, sigma), plain.scaled(lam).conj_prox(t, sigma))
    assert_trees_close(lowered.scaled(lam).prox(t, sigma), lowered.prox(t, sigma * lam))
    from_conj = TorchFunctional(lowered.fn, f.domain, conj_prox=lowered._conj_prox)
    assert_trees_close(from_conj.prox(t, sigma), lowered.prox(t, sigma))
    finite = lowered(t).isfinite()
    torch.testing.assert_close(lowered.scaled(lam)(t)[finite], (lam * lowered(t))[finite])


def assert_trees_close(a, b):
    tree_map(lambda p, q: torch.testing.assert_close(p, q, **ROUNDING), a, b)


@pytest.mark.parametrize("name", ["L1", "L2", "GroupL1", "L2Squared", "Huber", "translation"])
def test_conj_prox_of_zero_times_f_is_zero(name):
    f, t = made(name, (2,))
    result = to_torch(f).scaled(0.0).conj_prox(torch.cat([t, torch.zeros_like(t)]), 0.5)
    assert_trees_close(result, torch.zeros_like(result))


def test_separable_sum_takes_a_step_per_part():
    f = F.SeparableSum(F.L1Norm(X), F.L2NormSquared(R3))
    t = random(f.domain)
    expected = f.proximal([0.1, 2.0])(to_element(f.domain, t))
    assert_equal_samples(f.domain, to_torch(f).prox(t, (0.1, 2.0)), [expected])


@pytest.mark.parametrize("name", ["L1", "L2", "GroupL1", "GroupL1-1", "Huber", "Huber-0", "Huber-product"])
def test_subgradients_at_zero_are_finite(name):
    f, t = made(name, (2,))
    t = torch.zeros_like(t).requires_grad_()
    (g,) = torch.autograd.grad(to_torch(f)(t).sum(), t, create_graph=True)
    assert (g == 0).all()
    if g.requires_grad:
        assert torch.autograd.grad(g.sum(), t)[0].isfinite().all()


def test_kullback_leibler_outside_its_domain():
    g = X.zero()
    g.data[0] = 1.0
    f = to_torch(F.KullbackLeibler(X, g))
    t = torch.ones(4, 4, 5, dtype=torch.float64)
    # 0 where 1 was counted; negative; 0 where 0 was counted
    t[1, 0, 0], t[2, 1, 0], t[3, 1, 0] = (0.0, -1.0, 0.0)
    assert f(t).isinf().tolist() == [False, True, True, False]
    assert (f.prox(random(X, (3,)), 0.5) >= 0).all()
    t = t[3:].requires_grad_()
    assert torch.autograd.grad(f(t).sum(), t)[0].isfinite().all()


def test_envelope_of_the_l1_norm_is_hubers_functional():
    envelope, huber = to_torch(F.MoreauEnvelope(F.L1Norm(X), 0.5)), to_torch(F.Huber(X, 0.5))
    t = random(X, (7,))
    torch.testing.assert_close(envelope(t), huber(t), **ROUNDING)
    torch.testing.assert_close(envelope.prox(t, 0.3), huber.prox(t, 0.3), **ROUNDING)
    expected = [F.MoreauEnvelope(F.L1Norm(X), 0.5).gradient(x) for x in samples(X, t)]
    g = torch.func.grad(lambda t: envelope(t).sum())(t)
    assert_equal_samples(X, riesz(X, g), expected)


def test_infinite_values_stay_infinite_in_sums_with_complex_ones():
    f = complex_form() + F.SeparableSum(F.IndicatorZero(CX), complex_form()) * odl.BroadcastOperator(
        odl.IdentityOperator(CX), odl.IdentityOperator(CX)
    )
    f = F.FunctionalQuadraticPerturb(f + (2.0 + 1j), 0.5, element(CX)) + complex_form()
    assert to_torch(f)(random(CX, (3,))).isposinf().all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_projections_onto_balls_are_in_the_ball(dtype):
    space = odl.uniform_discr([0, 0], [3, 5], (6, 7), dtype=dtype)
    balls = [F.IndicatorLpUnitBall(space, 2), F.IndicatorLpUnitBall(space, math.inf)]
    balls += [F.GroupL1Norm(space**2).convex_conj, F.GroupL1Norm(space**2, exponent=1).convex_conj]
    for ball in map(to_torch, balls):
        t = 3 * random(ball.domain, (500,))
        assert (ball(ball.prox(t, 1.0)) == 0).all() and ball(1.001 * ball.prox(t, 1.0)).isinf().any()


def test_envelope_without_a_prox():
    f = to_torch(F.MoreauEnvelope(F.LpNorm(X, 3)))
    assert not f.has_prox
    with pytest.raises(NotImplementedError, match="no proximal operator is known for LpNorm"):
        f(torch.zeros(4, 5))


def test_conjugate_of_kullback_leibler_where_nothing_was_counted():
    """It is the indicator of p <= 1."""
    g = odl.rn(2).element([0.0, 1.0])
    f = to_torch(F.KullbackLeibler(g.space, g).convex_conj)
    t = torch.tensor([[-3.0, 0.5], [1.0, 0.5], [1.1, 0.5], [0.0, 1.0]], dtype=torch.float64)
    assert f(t).tolist() == pytest.approx([math.log(2), math.log(2), math.inf, math.inf])


def test_float32_sums_of_many_entries_are_accurate():
    space = odl.rn(4_000_000, dtype="float32", weighting=0.5)
    t = torch.randn(4_000_000)
    exact = 0.5 * t.double().square().sum()
    assert abs(to_torch(F.L2NormSquared(space))(t) / exact - 1) < 1e-6
    assert abs(to_torch(F.L2Norm(space))(t) / exact.sqrt() - 1) < 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F.LpNorm(X, 3), "LpNorm"),
        (lambda: F.L1Norm(X) + F.L2Norm(X), "L1Norm [+] L2Norm"),
        (lambda: F.L1Norm(X) * odl.Laplacian(X), "L1Norm after Laplacian"),
        (lambda: -1.0 * F.L1Norm(X), "-1.0 times L1Norm"),
        (lambda: F.SeparableSum(F.L1Norm(X), F.LpNorm(X, 3)), "because of its part LpNorm"),
    ],
)
def test_missing_prox_is_named(make, message):
    f = to_torch(make())
    assert not f.has_prox
    for prox in (f.prox, f.conj_prox):
        with pytest.raises(NotImplementedError, match=f"no proximal operator is known for .*{message}"):
            prox(torch.zeros(4, 5), 1.0)


def test_negative_factor_is_refused():
    with pytest.raises(ValueError, match="`lam` must be >= 0, got -1"):
        to_torch(F.L1Norm(X)).scaled(-1)


def test_conjugate_without_values():
    f = to_torch(F.FunctionalQuadraticPerturb(F.L1Norm(X), 1.0).convex_conj)
    t = random(X)
    assert_equal_samples(
        X,
        f.prox(t, 0.5),
        [F.FunctionalQuadraticPerturb(F.L1Norm(X), 1.0).convex_conj.proximal(0.5)(to_element(X, t))],
    )
    with pytest.raises(NotImplementedError, match="no values are known"):
        f(t)


def test_empty_box_is_refused():
    with pytest.raises(ValueError, match="`lower` must not exceed `upper`, got 1 and 0"):
        to_torch(F.IndicatorBox(X, 1, 0))


class Shrinking(F.Functional):
    """Multiples of |x|² by numbers that differ from sample to sample, as a functional with data of a batch."""

    def __init__(self, space, lam):
        super().__init__(space)
        self.lam = lam


@lower.register
def _(op: Shrinking) -> TorchFunctional:
    return to_torch(F.L2NormSquared(op.domain)).scaled(op.lam)


@pytest.mark.parametrize(
    "build",
    [
        lambda f: 2.0 * f,
        lambda f: -2.0 * f,
        lambda f: f * 3.0,
        lambda f: f * element(X),
        lambda f: f + F.L1Norm(X),
        lambda f: f + 2.0,
        lambda f: f.translated(element(X)),
        lambda f: f * odl.Laplacian(X),
        lambda f: F.FunctionalQuadraticPerturb(f, 0.5, element(X)),
        lambda f: F.FunctionalProduct(f, F.L1Norm(X)),
        lambda f: F.FunctionalQuotient(F.L1Norm(X), f),
        lambda f: F.SeparableSum(f, F.L1Norm(X)),
        lambda f: f * odl.ComponentProjection(X**2, 0),
    ],
)
def test_taking_samples_of_a_batch(build):
    """The functional for some samples is that of these samples, also where parts have data per sample."""
    f = to_torch(build(Shrinking(X, torch.arange(1.0, 6.0, dtype=torch.float64))))
    t, index = random(f.domain, (5,)), torch.tensor([3, 1])
    torch.testing.assert_close(f.take(index)(t[index]), f(t)[index])
    torch.testing.assert_close(f.take(index).take(torch.tensor([1]))(t[1:2]), f(t)[1:2])
    if f.has_prox:
        torch.testing.assert_close(f.take(index).prox(t[index], 0.5), f.prox(t, 0.5)[index])


def test_taking_samples_of_a_functional_without_data():
    f = to_torch(F.L1Norm(X).translated(element(X)))
    assert f.take(torch.tensor([1])) is f


@having("p")
def test_functionals_on_numpy_spaces_run_on_other_devices(name):
    """Constants follow the argument; the device "meta" computes shapes only, and refuses to mix with the CPU."""
    f, t = made(name, (2,))
    f, t = to_torch(f), tree_map(lambda a: a.to("meta"), t)
    step = torch.rand(2, dtype=torch.float64, device="meta")
    assert f(t).device.type == "meta" and f(t).shape == (2,)
    tree_map(lambda a, b: torch.testing.assert_close(a, b), f.prox(t, step), t)
    tree_map(lambda a, b: torch.testing.assert_close(a, b), f.conj_prox(t, step), t)
