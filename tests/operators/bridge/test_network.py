"""Networks as ODL operators and functionals: derivatives, weights, caching, ODL's own solvers, bad modules."""

import copy
import pickle

import odl
import pytest
import torch
from odl import functionals as F
from torch import nn

from genreg.operators import (
    NetworkFunctional,
    NetworkOperator,
    derivative_test,
    dot_test,
    riesz,
    to_element,
    to_tensor,
    to_torch,
)

from ...refusals import refuses

Z = odl.rn(3, weighting=0.3)
X = odl.uniform_discr([0, 0], [20, 30], (2, 3))  # cell volume 100
Z32, X32 = odl.rn(3, dtype="float32"), odl.uniform_discr([0, 0], [20, 30], (2, 3), dtype="float32")
W = odl.rn(3, weighting=[0.5, 1.0, 4.0])
C = odl.cn(3, weighting=0.3)
P = odl.ProductSpace(Z, X)


class Decoder(nn.Module):
    """Counts its forward passes."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 8), nn.ELU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.Sigmoid()
        ).to(dtype)
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return self.layers(z).unflatten(-1, (2, 3))


class Energy(nn.Module):
    def __init__(self, size=6, dtype=torch.float64):
        super().__init__()
        self.layer = nn.Linear(size, 1, dtype=dtype)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.layer(x.flatten(1)))[:, 0] + x.flatten(1).pow(2).sum(-1)


class Pairs(nn.Module):
    """(z, x) -> (z x_11, x²): from and to a product space."""

    def forward(self, z, x):
        return z * x[:, :1, 0], x**2


class Curl(nn.Module):
    """Between power spaces: (B, 2, 2, 3) to (B, 3, 2, 3)."""

    def forward(self, p):
        return torch.stack([p[:, 0] * p[:, 1], p[:, 0].sin(), p[:, 1] ** 2], 1)


class ComplexSquare(nn.Module):
    def forward(self, z):
        return z * z


class Lambda(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, *args):
        return self.fn(*args)


OPERATORS = {
    "weighted": lambda: NetworkOperator(Decoder(), Z, X),
    "float32": lambda: NetworkOperator(Decoder(torch.float32), Z32, X32),
    "array-weight": lambda: NetworkOperator(Decoder(), W, X),
    "pytorch": lambda: NetworkOperator(Decoder(), Z.to_impl("pytorch"), X.to_impl("pytorch")),
    "product": lambda: NetworkOperator(Pairs(), P, P),
    "power": lambda: NetworkOperator(Curl(), X**2, X**3),
    "complex": lambda: NetworkOperator(ComplexSquare(), C, odl.cn(3)),
}
FUNCTIONALS = {
    "weighted": lambda: NetworkFunctional(Energy(), X),
    "float32": lambda: NetworkFunctional(Energy(dtype=torch.float32), X32),
    "array-weight": lambda: NetworkFunctional(Energy(3), W),
    "pytorch": lambda: NetworkFunctional(Energy(), X.to_impl("pytorch")),
    "power": lambda: NetworkFunctional(Energy(12), X**2),
    "product": lambda: NetworkFunctional(Lambda(lambda z, x: z.pow(2).sum(1) * x.sin().sum((1, 2))), P),
    "complex": lambda: NetworkFunctional(Lambda(lambda z: z.abs().pow(4).sum(1)), C),
}


def batch_of(space, n):
    if isinstance(space, odl.ProductSpace) and not space.is_power_space:
        return tuple(batch_of(s, n) for s in space)
    element = to_tensor(space.zero())
    return torch.randn((n, *element.shape), dtype=element.dtype)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_passes_the_derivative_test(name):
    derivative_test(OPERATORS[name]())


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_functional_passes_the_derivative_test(name):
    derivative_test(FUNCTIONALS[name]())


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_lowers_to_its_module(name):
    G = OPERATORS[name]()
    t = batch_of(G.domain, 4)
    lowered = to_torch(G)(t)
    parts = zip(*t, strict=True) if isinstance(t, tuple) else t
    for i, x in enumerate(parts):
        sample = tuple(a[i] for a in lowered) if isinstance(lowered, tuple) else lowered[i]
        torch.testing.assert_close(to_tensor(G(to_element(G.domain, x))), sample)


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
def test_lowered_networks_take_any_batch(batch):
    z = torch.randn(*batch, 3, dtype=torch.float64)
    G, f = NetworkOperator(Decoder(), Z, X), NetworkFunctional(Energy(), X)
    x = to_torch(G)(z)
    assert x.shape == (*batch, 2, 3)
    torch.testing.assert_close(x.reshape(-1, 2, 3), G.module(z.reshape(-1, 3)))
    assert to_torch(f)(x).shape == batch
    torch.testing.assert_close(torch.func.vmap(to_torch(G).fn)(z.reshape(-1, 3)), x.reshape(-1, 2, 3))


def test_algebra_with_networks_lowers():
    G, f = NetworkOperator(Decoder(), Z, X), NetworkFunctional(Energy(), X)
    y = X.one()
    J = F.L2NormSquared(X).translated(y) * odl.Laplacian(X) * G + 0.5 * (f * G)
    z = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    values = to_torch(J)(z)
    (g,) = torch.autograd.grad(values.sum(), z)
    for i in range(3):
        x = to_element(Z, z[i])
        assert values[i].item() == pytest.approx(J(x), rel=1e-12)
        torch.testing.assert_close(riesz(Z, g[i]), to_tensor(J.gradient(x)))


def test_module_is_frozen_and_in_eval_mode():
    module = Decoder().train()
    G = NetworkOperator(module, Z, X)
    assert G.module is module and not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert G(Z.one()) == G(Z.one())  # no dropout


def test_value_and_derivatives_cost_one_forward_pass():
    G, f = NetworkOperator(Decoder(), Z, X), NetworkFunctional(Energy(), X)
    G.module.calls = f.module.calls = 0
    z = Z.element([1.0, 2.0, 3.0])
    x = G(z)
    first, second = G.derivative(z).adjoint(x), G.derivative(z).adjoint(x)
    assert first == second and G.module.calls == 1
    assert isinstance(f(x), float) and f.gradient(x) in X and f.module.calls == 1
    ((f * G).gradient)(z)
    assert G.module.calls == 1 and f.module.calls == 1


def test_results_do_not_depend_on_what_happens_to_the_arguments():
    G = NetworkOperator(Decoder(), Z, X)
    z = Z.element([1.0, 2.0, 3.0])
    x = G(z)
    expected, value = G.derivative(z).adjoint(X.one()), x.copy()
    derivative = G.derivative(z)
    x.set_zero()  # the value that is kept for the next call must not change
    z.assign(Z.zero())
    assert derivative.adjoint(X.one()) == expected
    assert G(Z.element([1.0, 2.0, 3.0])) == value
    assert G(z) != value


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_and_pickles(duplicate):
    G, f = NetworkOperator(Decoder(), Z, X), NetworkFunctional(Energy(), X)
    z = Z.one()
    x = G(z)
    derivative = G.derivative(z)
    assert f(x) == duplicate(f)(x)
    assert duplicate(G)(z) == x
    assert duplicate(derivative)(z) == derivative(z)
    assert duplicate(derivative.adjoint)(x) == derivative.adjoint(x)


def test_adjoint_carries_the_weights():
    G = NetworkOperator(Decoder(), Z, X)
    z, r = torch.randn(3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    (plain,) = torch.func.vjp(lambda z: G.module(z[None])[0], z)[1](r)
    adjoint = G.derivative(to_element(Z, z)).adjoint(to_element(X, r))
    torch.testing.assert_close(to_tensor(adjoint), 100 / 0.3 * plain)


def test_output_that_ignores_its_input_has_derivative_zero():
    G = NetworkOperator(Lambda(lambda z, x: (z, torch.ones_like(x) + 0 * z.sum())), P, P)
    assert dot_test(G.derivative(P.one())) < 1e-12


def test_steepest_descent_of_odl():
    G = NetworkOperator(Decoder(), Z, X)
    y = G(Z.element([0.5, -0.5, 0.2]))
    J = F.L2NormSquared(X).translated(y) * G
    z = Z.zero()
    before = J(z)
    search = odl.solvers.BacktrackingLineSearch(J, estimate_step=True)
    odl.solvers.steepest_descent(J, z, line_search=search, maxiter=60, tol=1e-12)
    assert J(z) < 1e-3 * before


def test_pdhg_of_odl():
    """ODL's nonlinear primal-dual method calls G, G.derivative and its adjoint."""
    torch.manual_seed(1)
    G = NetworkOperator(Decoder(), Z, X)
    y = G(Z.element([0.5, -0.5, 0.2]))
    z = Z.zero()
    f, g = 1e-6 * F.L2NormSquared(Z), F.L2NormSquared(X).translated(y)
    before = g(G(z))
    norm = odl.power_method_opnorm(G.derivative(z), maxiter=20, xstart=Z.one())
    odl.solvers.pdhg(z, f, g, G, niter=300, tau=0.5 / norm, sigma=0.5 / norm)
    assert g(G(z)) < 1e-2 * before


@refuses(
    (lambda z: z, Z, Z, TypeError, "`module` must be a torch.nn.Module, got function"),
    (
        Decoder(torch.float32),
        Z,
        X,
        ValueError,
        "dtype of `domain`, torch.float64, got torch.float32 for layers",
    ),
    (
        Decoder(),
        Z,
        Z,
        ValueError,
        r"`module` must map batches .* \(\(2, 3\), torch.float64\), got \(\(2, 2, 3\)",
    ),
    (
        Decoder(),
        odl.rn(4),
        X,
        ValueError,
        r"`module` must accept two samples of `domain`, \(2, 4\); it says: mat1",
    ),
    (Lambda(lambda z: z.sum(0)), Z, Z, ValueError, r"got \(\(3,\), torch.float64\)"),
    (Lambda(lambda z: z.float()), Z, Z, ValueError, r"got \(\(2, 3\), torch.float32\)"),
    (Lambda(lambda z: None), Z, Z, ValueError, "`module` must return tensors, got NoneType"),
    (Lambda(lambda z, x: z), P, P, ValueError, "`module` must map batches"),
)
def test_bad_modules_are_refused(module, domain, range):
    NetworkOperator(module, domain, range)


@refuses(
    (Lambda(lambda x: x.sum()), r"one real number per sample, a shape of \(2,\) for two, got \(\(\), "),
    (Lambda(lambda x: x.flatten(1).sum(1, keepdim=True)), r"got \(\(2, 1\), torch.float64\)"),
    (Lambda(lambda x: x.flatten(1).sum(1) * 1j), "complex128"),
    error=ValueError,
)
def test_bad_functionals_are_refused(module):
    NetworkFunctional(module, X)
