"""Elements and tensors, weights, checks at the entry, dispatch, and the sample-by-sample fallback."""

import warnings

import numpy as np
import odl
import pytest
import torch

from genreg.operators import (
    TorchFunctional,
    TorchOperator,
    check_tensor,
    lower,
    riesz,
    to_element,
    to_tensor,
    to_torch,
    torch_device,
    torch_dtype,
    weight,
)
from genreg.operators.bridge.spaces import is_stacked, join, space_shape, split
from genreg.operators.lowering import fallback

from ...refusals import refuses

X = odl.uniform_discr([0, 0], [20, 30], (2, 3), dtype="float32")  # cell volume 100
XT = odl.uniform_discr([0, 0], [20, 30], (2, 3), dtype="float32", impl="pytorch")
CX = odl.uniform_discr([0, 0], [20, 30], (2, 3), dtype="complex128")
W4 = odl.rn(4, weighting=[0.5, 1, 2, 3])
P = odl.ProductSpace(odl.rn(4), X.astype("float64"))
WEIGHTED = odl.ProductSpace(odl.rn(4, weighting=0.5), odl.rn(3), weighting=[2.0, 3.0])
SPACES = {
    "rn": odl.rn(4),
    "discr": X,
    "pytorch": XT,
    "complex": CX,
    "complex-pytorch": odl.cn(5, impl="pytorch"),
    "array-weight": W4,
    "power": X**2,
    "power-of-power": (X**2) ** 3,
    "product": P,
    "nested": odl.ProductSpace(P, odl.rn(2)),
    "power-of-product": P**2,
    "weighted-product": WEIGHTED,
    "weighted-power": odl.ProductSpace(odl.rn(4), 2, weighting=3.0),
    "array-weighted-power": odl.ProductSpace(odl.rn(4), 2, weighting=[2.0, 3.0]),
    "on-boundary": odl.uniform_discr([0, 0], [1, 2], (4, 5), nodes_on_bdry=True),
    "one-node-on-boundary": odl.uniform_discr(0, 1, 5, nodes_on_bdry=[(True, False)]),
}


def random(space, batch=(), seed=0):
    if isinstance(space, odl.ProductSpace) and not is_stacked(space):
        return tuple(random(s, batch, seed + 17 * i) for i, s in enumerate(space))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch + space_shape(space), dtype=torch_dtype(space), generator=generator)


spaces = pytest.mark.parametrize("space", [pytest.param(s, id=k) for k, s in SPACES.items()])


@spaces
def test_element_and_back(space):
    t = random(space)
    x = to_element(space, t)
    assert x in space
    torch.testing.assert_close(to_tensor(x), t)


@spaces
def test_weight_gives_the_inner_product(space):
    a, b, w = random(space), random(space, seed=1), weight(space)

    def inner(w, a, b):
        if isinstance(a, tuple):
            return sum(inner(*parts) for parts in zip(w, a, b, strict=True))
        return (w * a * b.conj()).sum().item()

    expected = to_element(space, a).inner(to_element(space, b))
    assert inner(w, a, b) == pytest.approx(
        expected, rel=1e-5 if torch_dtype(space) == torch.float32 else 1e-12
    )


@pytest.mark.parametrize(
    "name", ["discr", "complex", "array-weight", "weighted-product", "array-weighted-power"]
)
def test_riesz_gradient_represents_the_derivative(name):
    space = SPACES[name]
    t, h = random(space), random(space, seed=1)
    leaves = [a.requires_grad_() for a in (t if isinstance(t, tuple) else (t,))]
    loss = sum((a.abs() ** 3).sum() for a in leaves)
    g = torch.autograd.grad(loss, leaves)
    slope = sum(
        (gi.conj() * hi).real.sum() for gi, hi in zip(g, h if isinstance(t, tuple) else (h,), strict=True)
    )
    represented = to_element(space, riesz(space, g if isinstance(t, tuple) else g[0])).inner(
        to_element(space, h)
    )
    assert complex(represented).real == pytest.approx(slope.item(), rel=1e-5)


def test_memory_is_shared():
    for space in (X, XT):
        t = torch.zeros(2, 3)
        x = to_element(space, t)
        t[0, 0] = 7
        assert x.data[0, 0] == 7
        to_tensor(x)[1, 1] = 8
        assert t[1, 1] == 8
    p = torch.zeros(2, 2, 3)
    x = to_element(X**2, p)
    p[1, 0, 0] = 5
    assert x[1].data[0, 0] == 5


def test_elements_that_torch_cannot_share_are_copied():
    data = np.arange(4.0)[::-1]
    np.testing.assert_array_equal(to_tensor(odl.rn(4).element(data)), data)
    frozen = np.arange(4.0)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(to_tensor(odl.rn(4).element(frozen)), frozen)


def test_conversion_detaches_and_resolves():
    t = torch.ones(2, 3, requires_grad=True)
    assert not to_tensor(to_element(XT, 2 * t)).requires_grad
    c = torch.full((2, 3), 1 + 2j, dtype=torch.complex128)
    assert to_element(CX, c.conj()).data[0, 0] == 1 - 2j


def test_numbers():
    assert to_tensor(2.0) == 2 and to_tensor(1j) == 1j and to_tensor(np.float32(2)) == 2
    assert to_element(odl.RealNumbers(), torch.tensor(3.0)) == 3.0
    assert weight(odl.RealNumbers()) == 1.0 and torch_dtype(odl.ComplexNumbers()) == torch.complex128


def test_dtype_and_device():
    assert torch_dtype(X**2) == torch.float32 and torch_dtype(CX) == torch.complex128
    assert torch_device(odl.ProductSpace(XT, XT)) == torch.device("cpu")


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
@spaces
def test_check_tensor_returns_the_batch(space, batch):
    assert check_tensor(random(space, batch), space, "x") == batch


@spaces
def test_split_and_join(space):
    if isinstance(space, odl.ProductSpace):
        t = random(space, (3,))
        torch.testing.assert_close(join(space, split(space, t)), t)


class Unknown:
    pass


@refuses(
    (X, torch.ones(3, 2), ValueError, r"`y` must have shape \(\*batch, \*\(2, 3\)\), got \(3, 2\)"),
    (X, torch.ones(3), ValueError, r"`y` must have shape .* got \(3,\)"),
    (X, np.ones((2, 3)), TypeError, r"`y` must be a torch tensor, got a numpy array of shape \(2, 3\)"),
    (X, X.one(), TypeError, "`y` must be a torch tensor, got an ODL element"),
    (
        X,
        torch.ones(2, 3, dtype=torch.complex64),
        TypeError,
        "`y` must be real floating point like .*complex64",
    ),
    (X, torch.ones(2, 3, dtype=torch.int64), TypeError, "`y` must be real floating point like .*int64"),
    (CX, torch.ones(2, 3), TypeError, "`y` must be complex like its space .* got torch.float32"),
    (XT, torch.ones(2, 3, device="meta"), ValueError, "`y` must be on cpu like its space, got meta"),
    (P, torch.ones(4), TypeError, r"`y` must be a tuple of 2 tensors.* got a tensor of shape \(4,\)"),
    (P, (torch.ones(4),), ValueError, "`y` must be a tuple of 2 tensors.* got 1 of them"),
    (P, (torch.ones(4), torch.ones(3)), ValueError, r"`y\[1\]` must have shape"),
    (
        P,
        (torch.ones(5, 4), torch.ones(2, 3)),
        ValueError,
        r"must have the same batch axes, got \[\(5,\), \(\)\]",
    ),
    (Unknown(), torch.ones(1), TypeError, "`space` must be a tensor space, a field or a product"),
)
def test_bad_tensors_are_refused(space, t):
    check_tensor(t, space, "y")


def test_bad_conversions_are_refused():
    with pytest.raises(ValueError, match="without batch axes"):
        to_element(X, torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="without batch axes"):
        to_element(P, (torch.ones(2, 4), torch.ones(2, 2, 3)))
    with pytest.raises(TypeError, match="`x` must be an element of an ODL space, got ndarray"):
        to_tensor(np.ones(3))
    with pytest.raises(TypeError, match="`space` must be a tensor space, a field or a power space"):
        space_shape(P)
    with pytest.raises(NotImplementedError, match="no inner product with a weight"):
        weight(odl.rn(3, exponent=1.0))


@pytest.mark.parametrize("what", [3.0, torch.nn.Linear(1, 1), X.one(), odl.Operator])
def test_only_operators_are_lowered(what):
    for function in (to_torch, lower):
        with pytest.raises(TypeError, match="`op` must be an ODL operator or functional, got"):
            function(what)


def test_lowering_is_idempotent():
    f, A = to_torch(odl.functionals.L1Norm(X)), to_torch(odl.Gradient(X))
    assert to_torch(f) is f and to_torch(A) is A
    assert isinstance(f, TorchFunctional) and isinstance(A, TorchOperator)
    assert A.domain is X and A.linear and A.adjoint.adjoint is A
    assert "TorchOperator" in repr(A) and "L1Norm" in repr(f)


def test_a_registration_teaches_a_class():
    class Exp(odl.Operator):
        def __init__(self, space):
            super().__init__(space, space)

    lower.register(Exp)(lambda op: TorchOperator(torch.exp, op.domain, op.range))
    t = torch.ones(2, 3)
    torch.testing.assert_close(to_torch(Exp(X) * (2.0 * odl.IdentityOperator(X)))(t), (2 * t).exp())


# The fallback


class Square(odl.Operator):
    """Square with a derivative, between differently weighted spaces; no native lowering."""

    def __init__(self, domain, range):
        super().__init__(domain, range)

    def _call(self, x):
        return self.range.element(x.data**2)

    def derivative(self, x):
        return Diagonal(2 * x.data, self.domain, self.range)


class Diagonal(odl.Operator):
    def __init__(self, diagonal, domain, range):
        super().__init__(domain, range, linear=True)
        self.diagonal = diagonal

    def _call(self, x):
        return self.range.element(x.data * self.diagonal)

    @property
    def adjoint(self):
        ratio = self.range.weighting.const / self.domain.weighting.const
        return Diagonal(ratio * self.diagonal.conj(), self.range, self.domain)


class Cubes(odl.functionals.Functional):
    """Sum of cubes of the parts of a product space."""

    def __init__(self, space):
        super().__init__(space)

    def _call(self, x):
        return sum(part.inner(part * part) for part in x)

    @property
    def gradient(self):
        return odl.DiagonalOperator(*(3.0 * Square(s, s) for s in self.domain))


class Lifted(odl.Operator):
    """x -> (x², x³) between product spaces that are no power spaces."""

    def __init__(self, domain):
        super().__init__(domain, domain)

    def _call(self, x):
        return self.range.element([x[0] * x[0], x[1] * x[1] * x[1]])

    def derivative(self, x):
        return odl.DiagonalOperator(odl.MultiplyOperator(2 * x[0]), odl.MultiplyOperator(3 * x[1] * x[1]))


class WrongAdjoint(Diagonal):
    @property
    def adjoint(self):
        return Diagonal(3 * self.diagonal, self.range, self.domain)


D, R = odl.rn(4, weighting=0.3), odl.rn(4, weighting=5.0)


@pytest.fixture
def quiet(monkeypatch):
    """Forget which classes were announced, and ignore the announcements."""
    monkeypatch.setattr(fallback, "_warned", set())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no native lowering")
        yield


def test_fallback_warns_once_per_class(monkeypatch):
    monkeypatch.setattr(fallback, "_warned", set())
    with pytest.warns(UserWarning, match=r"test_translation\.Square has no native lowering"):
        to_torch(Square(D, R))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_torch(Square(R, D))
    with pytest.warns(UserWarning, match="Cubes has no native lowering"):
        to_torch(Cubes(P) + odl.functionals.L1Norm(P))


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3), (0,)])
@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Square(D, R), lambda t: t**2),
        (Diagonal(np.arange(4.0), D, R), lambda t: t * torch.arange(4.0)),
        (Diagonal(np.arange(4) + 1j, odl.cn(4), odl.cn(4)), lambda t: t * (torch.arange(4.0) + 1j)),
        (Cubes(D**2), lambda t: 0.3 * (t**3).sum((-2, -1))),
        (Cubes(P), lambda t: (t[0] ** 3).sum(-1) + 100 * (t[1] ** 3).sum((-2, -1))),
        (Lifted(P), lambda t: (t[0] ** 2, t[1] ** 3)),
    ],
    ids=["nonlinear", "linear", "complex", "functional-power", "functional-product", "product"],
)
def test_fallback_differentiates_with_odl(quiet, op, expected, batch):
    lowered = to_torch(op)
    t, h = random(op.domain, batch), random(op.domain, batch, seed=3)
    torch.testing.assert_close(lowered(t), expected(t))
    if batch == (0,):
        return
    value, pullback = torch.func.vjp(lowered.fn, t)
    c = torch.ones_like(value) if isinstance(value, torch.Tensor) else tuple(map(torch.ones_like, value))
    torch.testing.assert_close(pullback(c), torch.func.vjp(expected, t)[1](c))
    torch.testing.assert_close(torch.func.jvp(lowered.fn, (t,), (h,)), torch.func.jvp(expected, (t,), (h,)))
    if batch == (7,):
        torch.testing.assert_close(torch.func.vmap(lowered.fn)(t), expected(t))


def test_fallback_of_a_linear_operator(quiet):
    op = Diagonal(np.arange(4.0), D, R)
    A, t = to_torch(op), random(R, (3,))
    assert A.linear
    torch.testing.assert_close(A.adjoint(t), 5.0 / 0.3 * t * torch.arange(4.0))
    t = random(D, (2,)).requires_grad_()
    assert torch.autograd.gradcheck(A.fn, t) and torch.autograd.gradgradcheck(A.fn, t)


def test_fallback_has_first_derivatives_only(quiet):
    t = random(D, (2,)).requires_grad_()
    (g,) = torch.autograd.grad(to_torch(Square(D, R))(t).sum(), t, create_graph=True)
    torch.testing.assert_close(g, 2 * t)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        g.sum().backward()


def test_fallback_uses_odls_prox(quiet):
    f = odl.functionals.KullbackLeiblerCrossEntropy(D)
    lowered, t = to_torch(f), random(D, (3,)).abs() + 0.1
    step = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    expected = torch.stack(
        [to_tensor(f.proximal(s.item())(to_element(D, x))) for s, x in zip(step, t, strict=True)]
    )
    torch.testing.assert_close(lowered.prox(t, step), expected)
    torch.testing.assert_close(lowered.prox(t[0], 0.1), expected[0])
    assert not to_torch(Cubes(P)).has_prox


def test_fallback_reports_a_wrong_adjoint(quiet):
    t = random(D, (2,)).requires_grad_()
    with pytest.warns(UserWarning, match="WrongAdjoint has an adjoint that fails the dot test"):
        to_torch(WrongAdjoint(np.arange(4.0), D, D))(t).sum().backward()


def test_a_subclass_that_overrides_call_is_not_lowered_like_its_parent(quiet):
    class Offset(odl.ScalingOperator):
        def _call(self, x):
            return x + 1.0

    t = torch.zeros(4, dtype=torch.float64)
    assert (to_torch(Offset(odl.rn(4), 2.0))(t) == 1).all()
