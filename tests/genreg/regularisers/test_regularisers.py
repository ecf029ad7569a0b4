"""Fidelity, generator and regularisers: values, gradients on weighted spaces, closed forms for linear maps."""

import numpy as np
import odl
import pytest
import torch
from torch import nn

from genreg import (
    GaussianFidelity,
    Generator,
    HardConstraint,
    NetworkOperator,
    Tikhonov,
    TotalVariation,
    solvers,
    to_torch,
)
from genreg.operators import IsotropicPrecision, derivative_test

from ...refusals import refuses
from ..conftest import LinearModel

SIGMA = 0.3


def test_fidelity_is_the_plain_sum_of_squares(A, y):
    x = A.domain.element(np.random.default_rng(0).standard_normal((4, 5)))
    one = A.range.element(y[0].numpy())
    f = GaussianFidelity(A, one, SIGMA)
    expected = np.square((A(x) - one).asarray()).sum() / (2 * SIGMA**2)
    assert f(x) == pytest.approx(expected, rel=1e-12)
    derivative_test(f)
    assert f.level.tolist() == pytest.approx([12 * SIGMA**2])

    batch = GaussianFidelity(A, y, SIGMA)
    t = torch.tensor(x.asarray()).expand(3, 4, 5)
    assert torch.allclose(to_torch(batch)(t)[0], torch.tensor(expected, dtype=torch.float64))
    assert torch.allclose(batch.residual(t), 2 * SIGMA**2 * to_torch(batch)(t))
    with pytest.raises(ValueError, match="batch of 3 data"):
        batch(x)
    # the algebra of ODL
    J = GaussianFidelity(A, one, SIGMA) + 0.3 * odl.functionals.L2NormSquared(A.domain)
    derivative_test(J)
    assert float(to_torch(J)(t[0])) == pytest.approx(J(x), rel=1e-12)


def test_fidelity_with_weighted_data_and_nonlinear_operator():
    X, Y = odl.uniform_discr(0, 1, 6), odl.uniform_discr(0, 12, 6)
    square = odl.PowerOperator(X, 2)
    f = GaussianFidelity(square, X.element(np.arange(6.0)), 0.5)
    derivative_test(f, X.element(np.linspace(0.5, 1, 6)))

    class Square(nn.Module):
        def forward(self, x):
            return x**2

    weighted = GaussianFidelity(NetworkOperator(Square(), X, Y), Y.element(np.arange(6.0)), 0.5)
    derivative_test(weighted, X.element(np.linspace(0.5, 1, 6)))


@pytest.mark.parametrize("step", [0.7, torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)])
def test_prox_of_the_fidelity_on_the_data(y, step):
    Y = odl.uniform_discr(0, 3, 12)  # weight 1/4
    f = GaussianFidelity(odl.IdentityOperator(Y), y, SIGMA).on_data()
    q = torch.randn(3, 12, dtype=torch.float64)
    p = f.prox(q, step)
    s = torch.as_tensor(step, dtype=torch.float64).expand(3)[:, None]
    assert torch.allclose(s * (p - y) / SIGMA**2 + 0.25 * (p - q), torch.zeros_like(q), atol=1e-10)
    conj = f.conj_prox(q, step)
    assert torch.allclose(conj, q - s * f.prox(q / s, 1 / s[:, 0]), atol=1e-12)
    assert torch.allclose(f.take(torch.tensor([2]))(q[2:]), f(q)[2:])


def test_generator_is_an_odl_operator(G, X):
    derivative_test(G)
    z = torch.randn(4, 3, dtype=torch.float64)
    decoded = G.decode(z)
    assert G.std == pytest.approx(np.exp(-2.0)) and not G.structured
    assert isinstance(decoded.precision, IsotropicPrecision)
    assert torch.allclose(decoded.precision.logdet(), torch.tensor(4.0 * G.range.size, dtype=torch.float64))
    assert torch.allclose(G.encode(decoded.mean), z)
    assert G.has_encoder and not any(p.requires_grad for p in G.model.parameters())
    assert torch.equal(G.sample(5, seed=1), G.sample(5, seed=1))
    assert G(G.domain.one()) in X
    channel = Generator(LinearModel(channel=True), X)
    assert torch.allclose(channel.decode(z).mean, decoded.mean)


def test_generator_converts_a_copy_of_the_model(X):
    model = LinearModel()
    single = Generator(model, odl.uniform_discr([0, 0], [8, 5], (4, 5), dtype="float32"))
    assert next(single.model.parameters()).dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float64
    torch_space = odl.uniform_discr([0, 0], [8, 5], (4, 5), impl="pytorch")
    assert Generator(model, torch_space).domain.impl == "pytorch"


def test_generator_without_encoder(X):
    G = Generator(LinearModel().linear, odl.rn(20), latent_dim=3)
    assert not G.has_encoder and G.decode(torch.zeros(1, 3, dtype=torch.float64)).precision is None
    with pytest.raises(NotImplementedError, match="no encoder"):
        G.encode(torch.zeros(1, 20))


@refuses(
    (lambda z: z, {}, TypeError, "model must be"),
    (LinearModel((3, 3)), {}, ValueError, "range"),
    (LinearModel().linear, {}, ValueError, "latent_dim"),
    (LinearModel(), {"latent_dim": 0}, ValueError, "latent_dim"),
    (LinearModel(), {"range": odl.rn(3) ** 2}, TypeError, "range must be"),
)
def test_bad_generators(X, model, options):
    Generator(model, **{"range": X, **options})


def test_hard_constraint_functional_and_its_algebra(A, G, y, closed_form):
    R = HardConstraint(G)
    z = G.domain.element([1.0, -2.0, 0.5])
    assert R(z) == pytest.approx(5.25)
    derivative_test(R)
    J = GaussianFidelity(A, A.range.element(y[0].numpy()), SIGMA) * R.image + 0.3 * R
    derivative_test(J)
    start = R.initial(A.range.element(y[0].numpy()), A)
    assert start["z"] in G.domain
    solution = solvers.quasi_newton(J, start, tol=1e-10, progress=False)
    exact = closed_form(y[:1], SIGMA, 0.3)
    assert np.allclose(solution.blocks["z"].asarray(), exact[0], atol=1e-7)
    iterate = G.domain.zero()
    # ODL's own solver on our functional
    odl.solvers.steepest_descent(J, iterate, line_search=4e-3, maxiter=1200)
    assert np.allclose(iterate.asarray(), exact[0], atol=1e-5)


@pytest.mark.parametrize("init", ["encoder", "random", "zero", None])
def test_hard_constraint_starts(A, G, y, init):
    R = HardConstraint(G)
    fidelity = GaussianFidelity(A, y, SIGMA)
    starts = R.start(fidelity, init, 2, torch.Generator().manual_seed(0))["z"]
    again = R.start(fidelity, init, 2, torch.Generator().manual_seed(0))["z"]
    assert starts.shape == (6, 3) and torch.equal(starts, again)
    assert (starts[1] != starts[3]).all()
    assert (init == "zero") == bool((starts[::2] == 0).all())
    assert R.initial(y, A)["z"].shape == (3, 3)


def test_problem_is_fidelity_plus_lambda_times_regulariser(A, G, X, y):
    fidelity = GaussianFidelity(A, y, torch.tensor([0.1, 0.2, 0.3]))
    lam = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    z = torch.randn(3, 3, dtype=torch.float64)
    objective = HardConstraint(G).problem(fidelity, lam)
    expected = to_torch(fidelity)(G.module(z)) + lam * z.square().sum(1)
    assert torch.allclose(objective({"z": z}), expected)
    assert torch.allclose(objective.take(torch.tensor([1]))({"z": z[1:2]}), expected[1:2])


def test_tikhonov_and_total_variation_are_functionals_of_odl(X):
    x = X.element(np.random.default_rng(0).standard_normal((4, 5)))
    assert Tikhonov(X)(x) == pytest.approx(x.norm() ** 2)
    D = odl.Gradient(X, method="forward", pad_mode="symmetric")
    assert Tikhonov(X, D)(x) == pytest.approx(D(x).norm() ** 2)
    derivative_test(Tikhonov(X, D))
    assert TotalVariation(X)(x) == pytest.approx(odl.functionals.GroupL1Norm(D.range)(D(x)))


@refuses(
    (lambda X: HardConstraint(odl.IdentityOperator(X)), TypeError, "G must be"),
    (lambda X: TotalVariation(odl.rn(5)), TypeError, "uniform_discr"),
    (lambda X: TotalVariation(X, lower=1, upper=0), ValueError, "lower"),
    (lambda X: Tikhonov(X, odl.PowerOperator(X, 2)), ValueError, "linear"),
    (lambda X: Tikhonov(X**2), TypeError, "space"),
    (
        lambda X: GaussianFidelity(odl.IdentityOperator(X), X.zero(), 0.0),
        ValueError,
        "noise_std must be positive",
    ),
    (
        lambda X: GaussianFidelity(odl.IdentityOperator(X), X.zero(), -1.0),
        ValueError,
        "noise_std must be positive",
    ),
    (
        lambda X: GaussianFidelity(odl.IdentityOperator(X), odl.rn(3).zero(), 1.0),
        ValueError,
        "y must be an element",
    ),
    (
        lambda X: GaussianFidelity(odl.IdentityOperator(X), torch.zeros(2, 3), 1.0),
        ValueError,
        "y.* must have shape",
    ),
    (
        lambda X: GaussianFidelity(odl.IdentityOperator(X), torch.full((4, 5), torch.inf), 1.0),
        ValueError,
        "finite",
    ),
    (lambda X: GaussianFidelity("A", X.zero(), 1.0), TypeError, "A must be"),
)
def test_bad_arguments(X, make):
    make(X)
