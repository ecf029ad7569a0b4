"""Random ODL expressions on random spaces: what `to_torch` gives is what ODL gives, or what mathematics does.

Values have to be ODL's. So have adjoints, derivatives, gradients and proximal operators, unless ODL's own are
wrong, which is for a test to say and not for a list: an adjoint that fails the dot test, a gradient that is not
the limit of difference quotients, a prox that another point beats. Ours have to pass that test in any case where
the two differ, or ODL has none (it raises).
"""

import math
import warnings

import numpy as np
import odl
import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from odl.core.set import Field

from genreg.operators import to_tensor, to_torch
from genreg.operators.bridge.spaces import is_stacked, torch_dtype, tree_leaves, tree_map
from genreg.operators.bridge.weights import riesz, weight

from ..functional_strategies import random_functionals
from ..samples import close, random, samples, stacked, unchanged
from ..strategies import BATCHES, operators

pytestmark = [
    pytest.mark.filterwarnings("ignore:Very short array:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has no native lowering:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has an adjoint that fails the dot test:UserWarning"),
]

MISSING = (AssertionError, AttributeError, NotImplementedError, TypeError, ValueError, RuntimeError, KeyError)


def odls(what, compute):
    """What ODL computes, or None where it raises."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # at norms on complex spaces
            return compute()
    except MISSING:
        event(f"ODL has no {what}")
        return None


def tolerance(*spaces):
    single = any(torch_dtype(s).to_real() == torch.float32 for s in spaces if not isinstance(s, Field))
    return 1e-3 if single else 1e-8


def inner(space, a, b):
    """Weighted inner product of batches of tensors, summed."""
    w = weight(space)
    if is_stacked(space):
        return complex((w * a * b.conj()).sum())
    leaves = zip(tree_leaves(w), tree_leaves(a), tree_leaves(b), strict=True)
    return sum(complex((v * p * q.conj()).sum()) for v, p, q in leaves)


def euclidean(a, b):
    """Real part of the inner product of trees of tensors without weights."""
    return sum(float((p * q.conj()).real.sum()) for p, q in zip(tree_leaves(a), tree_leaves(b), strict=True))


def norm(space, t):
    return math.sqrt(abs(inner(space, t, t)))


def passes_dot_test(A, adjoint, x, y, tol):
    """Whether (A x, y) = (x, A* y) in the real parts: taking a real part is linear in that sense only."""
    difference = abs((inner(A.range, A(x), y) - inner(A.domain, x, adjoint(y))).real)
    scale = norm(A.range, A(x)) * norm(A.range, y) + norm(A.domain, x) * norm(A.domain, adjoint(y))
    return difference <= 10 * tol * (1 + scale)


def is_limit(f, x, h, tangent):
    """Whether `tangent` is the derivative of f at x in direction h, by central differences in double precision."""
    x, h = (tree_map(double, t) for t in (x, h))
    step = 1e-5
    high, low = (f(tree_map(lambda a, b, s=s: a + s * step * b, x, h)) for s in (1, -1))
    return close(tangent, tree_map(lambda a, b: (a - b) / (2 * step), high, low), 1e-4)


def double(t):
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def batch_of(space, batch, seed=0, positive=False):
    t = random(space, batch, seed, positive)
    return t, samples(space, tree_map(torch.clone, t))


def dtypes(tree):
    return [leaf.dtype for leaf in tree_leaves(tree)]


def check_values(op, batch):
    """Compare values, and return the lowered operator, its argument as tensors and as elements."""
    A, tol = to_torch(op), tolerance(op.domain, op.range)
    x, points = batch_of(op.domain, batch)
    with unchanged(x):
        value = A(x)
    assert all(torch.isfinite(leaf).all() for leaf in tree_leaves(value))
    with unchanged(*map(to_tensor, points)):
        expected = odls("values", lambda: stacked([op(p) for p in points], batch))
    if expected is not None:
        assert close(value, expected, tol)
        assert dtypes(value) == dtypes(expected) or isinstance(op.range, Field)
    if len(batch) and batch[0] > 1:
        assert close(torch.func.vmap(A.fn)(x), value, tol)
    return A, x, points, tol


@given(operators(linear=True), BATCHES)
def test_linear_operators(op, batch):
    A, x, _, tol = check_values(op, batch)
    y, _ = batch_of(op.range, batch, seed=1)
    with unchanged(y):
        back = A.adjoint(y)
    assert passes_dot_test(A, A.adjoint, x, y, tol)
    assert close(A.adjoint.adjoint(x), A(x), tol)
    assert dtypes(back) == dtypes(x)
    expected = odls("adjoint", lambda: stacked([op.adjoint(r) for r in samples(op.range, y)], batch))
    if expected is not None and not close(back, expected, tol):
        d = tree_map(torch.sub, back, expected)  # in this direction the two differ the most
        error = inner(op.range, A(d), y) - inner(op.domain, d, back)
        assert abs(error.real) < 0.01 * norm(op.domain, d) ** 2
        event("ODL's adjoint fails the dot test")


@given(operators(linear=False), BATCHES)
def test_nonlinear_operators(op, batch):
    A, x, points, tol = check_values(op, batch)
    # torch.func.jvp (2.13) gives a product of a single number in float32 a tangent in float64
    assume(batch or tolerance(op.domain, op.range) < 1e-6)
    h, directions = batch_of(op.domain, batch, seed=1)
    c, _ = batch_of(op.range, batch, seed=2)
    with unchanged(x, h, c):
        tangent = torch.func.jvp(A.fn, (x,), (h,))[1]
        back = torch.func.vjp(A.fn, x)[1](c)[0]
    size = math.sqrt(euclidean(h, h) * euclidean(back, back))
    assert abs(euclidean(tangent, c) - euclidean(h, back)) <= 10 * tol * (1 + size)
    pairs = list(zip(points, directions, strict=True))
    expected = odls("derivative", lambda: stacked([op.derivative(p)(d) for p, d in pairs], batch))
    if expected is None or not close(tangent, expected, tol):
        assert is_limit(A, x, h, tangent)
        event("ODL's derivative is missing or wrong")


@given(random_functionals(), BATCHES, st.booleans())
def test_functionals(f, batch, positive):
    lowered, tol = to_torch(f), tolerance(f.domain)
    x, points = batch_of(f.domain, batch, positive=positive)
    try:
        with unchanged(x):
            value = lowered(x)
    except NotImplementedError:  # conjugates that are known by their prox only
        assume(False)
    assert value.shape == batch and not value.is_complex()
    with unchanged(*map(to_tensor, points)):
        expected = odls("values", lambda: [complex(f(p)).real for p in points])
    if expected is not None and not any(map(math.isnan, expected)):  # of infinities times complex numbers
        assert close(value, torch.tensor(expected, dtype=torch.float64).reshape(batch), tol)
    if len(batch) and batch[0] > 1:
        assert close(torch.func.vmap(lowered.fn)(x), value, tol)
    assume(value.isfinite().all())
    with unchanged(x):
        g = torch.func.vjp(lowered.fn, x)[1](torch.ones_like(value))[0]
    assert dtypes(g) == dtypes(x)
    expected = odls("gradient", lambda: stacked([f.gradient(p) for p in points], batch))
    if expected is None:
        h, _ = batch_of(f.domain, batch, seed=1)
    elif close(riesz(f.domain, g), expected, tol):
        return
    else:  # in this direction the two differ the most
        h = tree_map(torch.sub, g, euclidean_gradient(f.domain, expected))
    pairs = zip(tree_leaves(g), tree_leaves(h), strict=True)
    slope = sum((a.conj() * b).real.flatten(len(batch)).sum(-1) for a, b in pairs)
    assert is_limit(lowered, x, h, slope)
    event("ODL's gradient is missing or wrong")


def euclidean_gradient(space, g):
    """Inverse of `riesz`."""
    w = weight(space)
    return tree_map(torch.mul, g, w) if isinstance(w, tuple) else g * w


@given(random_functionals(convex=True), BATCHES, st.sampled_from([0.3, 1.0, "per sample"]))
def test_proximal_operators(f, batch, step):
    lowered, tol = to_torch(f), 10 * tolerance(f.domain)
    assume(lowered.has_prox)
    x, points = batch_of(f.domain, batch)
    if step == "per sample":
        step = torch.linspace(0.2, 1.4, math.prod(batch)).reshape(batch)
    steps = torch.as_tensor(step).double().expand(batch)
    with unchanged(x):
        best, conjugate = lowered.prox(x, step), lowered.conj_prox(x, step)
    assert dtypes(best) == dtypes(x) == dtypes(conjugate)
    pairs = list(zip(points, steps.reshape(-1).tolist(), strict=True))
    expected = odls("prox", lambda: stacked([f.proximal(s)(p) for p, s in pairs], batch))
    if expected is None or not close(best, expected, tol):
        assert is_minimiser(lowered, x, best, expected, step, tol)
        event("ODL's prox is missing or wrong")
    expected = odls(
        "prox of the conjugate", lambda: stacked([f.convex_conj.proximal(s)(p) for p, s in pairs], batch)
    )
    if expected is None or not close(conjugate, expected, tol):
        assert close(conjugate, by_moreau(lowered, x, steps), tol)
        event("ODL's prox of the conjugate is missing or wrong")


def is_minimiser(f, x, best, other, step, tol):
    """Whether no other point, ODL's if there is one, has a smaller value of step f(u) + |u - x|² / 2."""
    distance = to_torch(odl.functionals.L2NormSquared(f.domain))

    def objective(u):
        return step * f(u) + distance(tree_map(torch.sub, u, x)) / 2

    try:
        value = objective(best)
    except NotImplementedError:
        return True  # conjugates that are known by their prox only
    directions = [random(f.domain, tuple(value.shape), seed=s) for s in range(4)]
    others = [tree_map(lambda a, b, c=c: a + c * b, best, d) for d in directions for c in (1.0, 0.01)]
    others += [] if other is None else [other]
    finite = value.isfinite()  # a point on the boundary may be outside by rounding
    return all((objective(u) >= value - tol * (1 + value.abs()))[finite].all() for u in others)


def by_moreau(f, x, steps):
    """The prox of the conjugate from that of f."""

    def spread(a):
        return steps.reshape(steps.shape + (1,) * (a.ndim - steps.ndim)).to(a.real.dtype)

    u = f.prox(tree_map(lambda a: a / spread(a), x), (1 / steps).to(tree_leaves(x)[0].real.dtype))
    return tree_map(lambda a, b: a - spread(a) * b, x, u)
