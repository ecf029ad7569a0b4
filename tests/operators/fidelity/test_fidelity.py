"""Fidelities: values, gradients on weighted spaces, proximal operators by brute force, levels, errors."""

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo
from scipy import stats
from scipy.special import rel_entr
from torch import nn

from genreg import (
    FunctionalFidelity,
    GaussianFidelity,
    Generator,
    HardConstraint,
    JointPrior,
    NetworkOperator,
    PoissonFidelity,
    Tikhonov,
    TotalVariation,
    reconstruct,
    solvers,
    to_torch,
)
from genreg.operators import derivative_test, ray_transform
from genreg.operators.bridge.tensor_operator import TensorOperator
from genreg.operators.fidelity.transmission import transmission_prox
from genreg.solvers import Objective, SaddlePoint, Status

from ...genreg.conftest import LinearModel
from ...refusals import refuses

INTENSITY, BACKGROUND = 40.0, 3.0
KINDS = [
    "gaussian",
    "weighted",
    "emission",
    "transmission",
    "transmission with background",
    "huber",
    "l1",
    "no data",
]


class Rays(TensorOperator):
    """A matrix with positive entries."""

    def __init__(self, domain, range, matrix=None):
        super().__init__(domain, range)
        if matrix is None:
            generator = torch.Generator().manual_seed(5)
            matrix = 0.1 * torch.rand(range.size, domain.size, generator=generator, dtype=torch.float64)
            matrix.diagonal().add_(1.0)
        self.matrix = matrix

    def forward(self, t):
        return t.flatten(-len(self.domain.shape)) @ self.matrix.T

    def transpose(self, s):
        return (s @ self.matrix.conj()).unflatten(-1, self.domain.shape)


class Matrix(Rays):
    """A matrix that may map real images to complex data."""

    def forward(self, t):
        return super().forward(t.to(self.matrix.dtype))

    def transpose(self, s):
        t = super().transpose(s)
        return t if self.domain.is_complex else t.real


class Bent(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x):
        v = x.flatten(1) @ self.matrix.T
        return v + 0.05 * v * v


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [8, 5], (4, 5))  # cell volume 2


@pytest.fixture(name="Y")
def data_space():
    return odl.uniform_discr(0, 3, 12)  # weight 1/4


@pytest.fixture(name="A")
def operator(X, Y):
    return Rays(X, Y)


@pytest.fixture(name="G")
def generator(X):
    return Generator(LinearModel(), X)


@pytest.fixture(name="x")
def truth():
    return 0.2 + torch.rand(3, 4, 5, dtype=torch.float64)


@pytest.fixture(name="fidelity")
def fidelities(A, Y, x):
    """Make the fidelity of a kind for some of three samples; its parameters differ between them."""
    Ax = to_torch(A)(x)
    sigma = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    noisy = Ax + sigma[:, None] * torch.randn(3, 12, dtype=torch.float64)
    differing = 0.1 + torch.rand(3, 12, dtype=torch.float64)
    differing[0, 3:7] = differing[2, 0] = torch.inf
    emitted = torch.poisson(20 * Ax) / 20
    emitted[0, 0] = 0.0
    background = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    intensity = torch.tensor([20.0, 40.0, 80.0], dtype=torch.float64)
    transmitted = torch.poisson(intensity[:, None] * torch.exp(-Ax) + BACKGROUND)
    flat_field = INTENSITY + torch.arange(12.0, dtype=torch.float64)
    level = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def make(kind, i=slice(None), A=A):
        if kind == "gaussian":
            return GaussianFidelity(A, noisy[i], sigma[i])
        if kind == "weighted":
            return GaussianFidelity(A, noisy[i], differing[i])
        if kind == "emission":
            return PoissonFidelity(A, emitted[i], background=background[i])
        if kind == "transmission":
            return PoissonFidelity(A, transmitted[i], intensity=flat_field)
        if kind == "transmission with background":
            return PoissonFidelity(A, transmitted[i], intensity=intensity[i], background=BACKGROUND)
        if kind == "huber":
            return FunctionalFidelity(A, odl.functionals.Huber(Y, 0.1), noisy[i], level=level[i])
        if kind == "l1":
            return FunctionalFidelity(A, odl.functionals.L1Norm(Y), noisy[i], level=level[i])
        f = odl.functionals.KullbackLeibler(Y, Y.element(0.1 + emitted[0].numpy()))
        return FunctionalFidelity(A, f, level=1.0)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_one_sample_at_a_time(fidelity, kind, x):
    batch = fidelity(kind)
    count = len(batch.data)
    values = to_torch(batch)(x[:count])
    assert values.shape == (count,) and torch.isfinite(values).all()
    assert torch.allclose(batch.misfit(to_torch(batch.operator)(x[:count]), **batch.per_sample), values)
    assert all(len(v) == count for v in batch.per_sample.values())
    assert torch.allclose(to_torch(batch)(x[:count].expand(2, -1, -1, -1)), values.expand(2, -1))
    for i in range(count):
        single = batch if count == 1 else fidelity(kind, i)
        assert torch.allclose(to_torch(single)(x[i]), values[i])
        assert single(single.domain.element(x[i].numpy())) == pytest.approx(values[i].item())
        taken = batch.take(torch.tensor([i]))
        assert torch.allclose(to_torch(batch).take(torch.tensor([i]))(x[i : i + 1]), values[i : i + 1])
        for name in ("level", "data"):
            assert torch.equal(getattr(taken, name), getattr(batch, name)[i : i + 1])
        assert torch.allclose(taken.discrepancy(x[i : i + 1]), batch.discrepancy(x[:count])[i : i + 1])
        assert torch.allclose(taken.rough(), batch.rough()[i : i + 1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "l1"])
def test_gradient_by_taylor_on_weighted_spaces(fidelity, kind, X, Y, A, x):
    point = X.element(x[1].numpy())
    linear = fidelity(kind, 1)
    bent = fidelity(kind, 1, A=NetworkOperator(Bent(A.matrix), X, Y))
    for f in (linear, bent, 2.0 * linear + 0.5 * odl.functionals.L2NormSquared(X)):
        derivative_test(f, point, seed=1) if kind in ("gaussian", "weighted") else small_steps(f, point)


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_the_second_derivative_in_every_datum(fidelity, kind, A, x):
    f = fidelity(kind)
    if "curvature" not in f.offers:
        assert f.curvature_bound is None
        with pytest.raises(
            NotImplementedError, match=r"^a solver needs a fidelity with a curvature, got Func"
        ):
            f.require("curvature", "a solver")
        with pytest.raises(NotImplementedError, match="has no curvature"):
            f.curvature(to_torch(A)(x), **f.per_sample)
        return
    Ax = to_torch(A)(x)[: len(f.data)].requires_grad_()
    (slope,) = torch.autograd.grad(f.misfit(Ax, **f.per_sample).sum(), Ax, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), Ax)
    found = f.curvature(Ax.detach(), **f.per_sample)
    found = found[:, None] if found.ndim == 1 else found
    assert torch.allclose(found.expand(second.shape), second.clamp_min(0))
    if "quadratic" in f.offers:
        assert torch.allclose(f.curvature_bound, second.amax(1))


def small_steps(f, point):
    """Let the Taylor test take steps that keep the counts positive."""
    scaling = odl.ScalingOperator(f.domain, 0.1)
    derivative_test(f * (scaling + odl.ConstantOperator(0.9 * point)), point)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.3, torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)])
def test_prox_on_the_data_is_a_minimiser(fidelity, kind, step, Y):
    batch = fidelity(kind)
    f = batch.on_data()
    count = len(batch.data)
    step = step[:count] if isinstance(step, torch.Tensor) else step
    q = 3 * torch.randn(count, 12, dtype=torch.float64)
    p = f.prox(q, step)

    def penalised(u):
        return step * f(u) + 0.5 * 0.25 * (u - q).square().sum(-1)

    best = penalised(p)
    assert torch.isfinite(best).all()
    for size in (1e-4, 1e-2, 1.0):
        trials = p + size * torch.randn(500, count, 12, dtype=torch.float64)
        assert (penalised(trials) >= best - 1e-9).all()
    s = torch.as_tensor(step, dtype=torch.float64).expand(count)
    conj = f.conj_prox(q, step)
    assert torch.allclose(conj, q - s[:, None] * f.prox(q / s[:, None], 1 / s), atol=1e-9)
    last = torch.tensor([count - 1])
    assert torch.allclose(f.take(last).prox(q[last], s[last]), p[last])
    assert torch.allclose(f(q), batch.misfit(q, **batch.per_sample))


@pytest.mark.parametrize("model", ["emission", "transmission"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_prox_of_counts_against_a_grid(model, dtype):
    real = getattr(torch, dtype)
    q, y, b, s = torch.cartesian_prod(
        torch.tensor([-30.0, -0.5, 1.0, 4.0, 60.0], dtype=real),
        torch.tensor([0.0, 0.4, 5.0, 400.0], dtype=real),
        torch.tensor([0.0, 0.1, 2.0, 50.0], dtype=real),
        torch.tensor([1e-3, 0.1, 1.0, 1e3], dtype=real),
    ).unbind(1)
    Y = odl.rn(1, weighting=0.5, dtype=dtype)
    intensity = None if model == "emission" else INTENSITY
    fidelity = PoissonFidelity(odl.IdentityOperator(Y), y[:, None], background=b, intensity=intensity)
    p = fidelity.on_data().prox(q[:, None], s)

    exact = {k: v.double() for k, v in fidelity.per_sample.items()}

    def penalised(u):
        return s * fidelity.misfit(u, **exact) + 0.25 * (u - q[:, None]).square().sum(-1)

    grid = torch.cat([torch.linspace(-40, 70, 1101), torch.linspace(-5, 5, 501)]).double()
    best = penalised(grid[:, None, None].expand(-1, len(q), 1)).amin(0)
    value = penalised(p.double())
    rtol = 1e-12 if dtype == "float64" else 2e-6
    if model == "emission":  # the boundary, where counts become impossible, may be missed by rounding
        inside = p[:, 0] > -b
        value = torch.where(inside | torch.isfinite(value), value, best)
    assert (value <= best + rtol * (1 + best.abs())).all()


def test_prox_of_transmission_finds_the_better_of_two_minima():
    y, b, s = (torch.tensor(v, dtype=torch.float64) for v in (50.0, 1.0, 0.2))
    q = torch.linspace(2, 12, 100, dtype=torch.float64)
    p = transmission_prox(q, y, torch.tensor(60.0, dtype=torch.float64), b, s)
    u = torch.linspace(-2, 14, 8001, dtype=torch.float64)
    e = 60 * torch.exp(-u)
    phi = s * (e - y * torch.log(e + b)) + 0.5 * (u - q[:, None]).square()
    assert (p - u[phi.argmin(1)]).abs().max() < 2e-3
    assert (p[1:] - p[:-1]).amax() > 1.0  # the minimiser jumps from one to the other


def test_poisson_values_against_scipy_and_odl(X, x):
    Y = odl.rn(12)
    A = Rays(X, Y)
    Ax = to_torch(A)(x)[0]
    y = torch.poisson(4 * Ax)
    y[2] = 0.0
    expected = (Ax + 0.5).numpy()
    f = PoissonFidelity(A, Y.element(y.numpy()), background=0.5)
    reference = (rel_entr(y.numpy(), expected) - y.numpy() + expected).sum()
    assert f(X.element(x[0].numpy())) == pytest.approx(reference)
    counts = y.numpy()
    likelihood = stats.poisson.logpmf(counts, np.maximum(counts, 1e-300)) - stats.poisson.logpmf(
        counts, expected
    )
    assert reference == pytest.approx(likelihood.sum())
    assert f.discrepancy(x[:1]).item() == pytest.approx(2 * reference)

    without = PoissonFidelity(A, Y.element(y.numpy()))
    kl = odl.functionals.KullbackLeibler(Y, Y.element(y.numpy() + 1e-300))
    assert without(X.element(x[0].numpy())) == pytest.approx(kl(A(X.element(x[0].numpy()))))
    assert torch.allclose(without.on_data().prox(Ax[None], 0.7), to_torch(kl).prox(Ax[None], 0.7), atol=1e-12)

    transmission = PoissonFidelity(A, Y.element(y.numpy()), intensity=INTENSITY, background=0.5)
    expected = (INTENSITY * torch.exp(-Ax) + 0.5).numpy()
    reference = (rel_entr(y.numpy(), expected) - y.numpy() + expected).sum()
    assert transmission(X.element(x[0].numpy())) == pytest.approx(reference)


def test_poisson_on_the_edge():
    Y = odl.rn(3)
    f = PoissonFidelity(odl.IdentityOperator(Y), Y.element([0.0, 2.0, 5.0]))
    assert f(Y.element([0.0, 2.0, 5.0])) == 0.0
    assert np.allclose(f.gradient(Y.element([0.0, 2.0, 5.0])).asarray(), [1.0, 0.0, 0.0])
    assert f(Y.element([0.0, 0.0, 5.0])) == np.inf
    assert f(Y.element([-1e-9, 2.0, 5.0])) == np.inf
    transmission = PoissonFidelity(odl.IdentityOperator(Y), Y.element([0.0, 2.0, 5.0]), intensity=1.0)
    assert transmission(Y.element([-1e4, 0.0, 0.0])) == np.inf


@pytest.mark.parametrize("close", [0.0, 1e-3, 0.3, 0.6, 3.0])
def test_poisson_keeps_its_digits_in_single_precision(close):
    y = torch.full((1, 100), 1e5)
    expected = (y + close * y.sqrt() * torch.linspace(-1, 1, 100)).float()
    f = PoissonFidelity(odl.IdentityOperator(odl.rn(100, dtype="float32")), y)
    exact = PoissonFidelity(odl.IdentityOperator(odl.rn(100)), y.double())
    value = to_torch(exact)(expected.double()).item()
    # in single precision y log(y / expected) of one datum alone has an error of 6e-3
    assert to_torch(f)(expected).item() == pytest.approx(value, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("intensity", [None, INTENSITY])
def test_a_bad_sample_leaves_the_batch_unharmed(A, X, x, intensity):
    y = torch.poisson(10 * to_torch(A)(x))
    f = PoissonFidelity(A, y, intensity=intensity, background=0.1)
    impossible = -50.0 if intensity is None else -1e4
    for bad in (torch.nan, impossible):
        start = x.clone()
        start[1] = bad
        objective = Objective(
            lambda blocks, **data: f.misfit(to_torch(A)(blocks["x"]), **data),
            {"x": X},
            per_sample=f.per_sample,
        )
        value, gradient = objective.value_and_gradient({"x": start})
        good = torch.tensor([0, 2])
        assert not torch.isfinite(value[1]) and torch.isfinite(value[good]).all()
        alone, gradient_alone = objective.take(good).value_and_gradient({"x": x[good]})
        assert torch.allclose(value[good], alone)
        assert torch.allclose(gradient["x"][good], gradient_alone["x"])
    solution = solvers.gradient_descent(objective, {"x": start}, max_iter=20, progress=False)
    assert solution.status[1] == Status.NON_FINITE
    alone = solvers.gradient_descent(objective.take(good), {"x": x[good]}, max_iter=20, progress=False)
    assert torch.allclose(solution.blocks["x"][good], alone.blocks["x"])


@pytest.mark.parametrize(
    ("intensity", "exact"),
    [(None, lambda y: y - BACKGROUND), (INTENSITY, lambda y: -torch.log((y - BACKGROUND) / INTENSITY))],
)
def test_maximum_likelihood_with_the_identity(Y, intensity, exact):
    y = 5 + 30 * torch.rand(2, 12, dtype=torch.float64)
    identity = odl.IdentityOperator(Y)
    f = PoissonFidelity(identity, y, background=BACKGROUND, intensity=intensity)
    assert torch.allclose(f.rough(), exact(y))
    objective = Objective(lambda v, **data: f.misfit(v["x"], **data), {"x": Y}, per_sample=f.per_sample)
    start = {"x": torch.ones(2, 12, dtype=torch.float64)}
    smooth = solvers.gradient_descent(objective, start, tol=1e-9, max_iter=2000, progress=False)
    assert torch.allclose(smooth.blocks["x"], exact(y), atol=1e-5)
    saddle = SaddlePoint(odl.functionals.ZeroFunctional(Y), [f.on_data()], [identity])
    primal_dual = solvers.pdhg(saddle, start, tol=1e-9, max_iter=4000, progress=False)
    assert torch.allclose(primal_dual.blocks["x"], exact(y), atol=1e-5)


def test_pdhg_and_gradient_descent_agree_in_transmission(A, X, fidelity, x):
    f = fidelity("transmission with background")
    quadratic = odl.functionals.L2NormSquared(X)
    objective = Objective(
        lambda v, **data: f.misfit(to_torch(A)(v["x"]), **data) + to_torch(quadratic)(v["x"]),
        {"x": X},
        per_sample=f.per_sample,
    )
    smooth = solvers.quasi_newton(objective, {"x": f.rough()}, tol=1e-8, progress=False)
    primal_dual = solvers.pdhg(
        SaddlePoint(quadratic, [f.on_data()], [A]),
        {"x": torch.zeros_like(x)},
        tol=1e-9,
        max_iter=5000,
        progress=False,
    )
    assert torch.allclose(smooth.blocks["x"], primal_dual.blocks["x"], atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "expectation"), [(50.0, 1.0034), (5.0, 1.0467), (1.0, 1.1468), (0.1, 0.4741)]
)
def test_deviance_of_one_datum(mean, expectation):
    n = 40000
    f = PoissonFidelity(odl.IdentityOperator(odl.rn(n)), torch.poisson(torch.full((n,), mean).double()))
    truth = torch.full((1, n), mean, dtype=torch.float64)
    deviance = f.discrepancy(truth).item()
    assert f.level.item() == n
    assert deviance / n == pytest.approx(expectation, abs=4 * np.sqrt(2.5 / n))  # 4 standard deviations


def test_rough_reconstructions_are_good_enough_to_start_from(A, x):
    Ax = to_torch(A)(x)
    emission = PoissonFidelity(A, 100 * Ax)
    assert (emission.discrepancy(emission.rough()) < 0.05 * emission.discrepancy(x)).all()
    transmission = PoissonFidelity(A, 1e4 * torch.exp(-Ax), intensity=1e4)
    assert (transmission.discrepancy(transmission.rough()) < transmission.level).all()
    few = PoissonFidelity(A, torch.poisson(0.05 * Ax))  # least squares predicts negative counts
    assert torch.isfinite(few.discrepancy(few.rough())).all()
    few = PoissonFidelity(A, torch.zeros(1, 12, dtype=torch.float64), intensity=5.0, background=1.0)
    assert torch.isfinite(few.rough()).all()


def test_gaussian_noise_of_complex_data():
    X, Y = odl.cn(4, weighting=2.0), odl.cn(6, weighting=0.5)
    matrix = torch.randn(6, 4, dtype=torch.complex128)
    f = GaussianFidelity(Rays(X, Y, matrix), torch.randn(6, dtype=torch.complex128), 0.5)
    derivative_test(f)
    x = torch.randn(1, 4, dtype=torch.complex128)
    square = (to_torch(f.operator)(x) - f.data).abs().square().sum()
    assert to_torch(f)(x).item() == pytest.approx(2 * square.item())
    assert f.discrepancy(x).item() == pytest.approx(square.item())


def measured_part(A, keep):
    """The rows of a matrix that were measured."""
    return Rays(A.domain, odl.rn(int(keep.sum())), A.matrix[keep])


def test_data_that_were_not_measured_have_no_influence(A, x):
    keep = torch.arange(12) % 3 > 0
    sigma = torch.where(keep, torch.linspace(0.1, 1.0, 12, dtype=torch.float64), torch.inf)
    y = to_torch(A)(x) + torch.randn(3, 12, dtype=torch.float64)
    f = GaussianFidelity(A, torch.where(keep, y, 1e6), sigma)
    part = GaussianFidelity(measured_part(A, keep), y[:, keep], sigma[keep])
    assert not f.white and f.inverse_variance.shape == (3, 12)
    assert torch.allclose(to_torch(f)(x), to_torch(part)(x))
    assert torch.allclose(f.residual(x), part.residual(x))
    assert torch.allclose(f.rough(), part.rough())
    assert torch.equal(f.level, torch.full((3,), 8.0, dtype=torch.float64)) and torch.equal(
        f.level, part.level
    )
    nothing = GaussianFidelity(A, y, torch.full((12,), torch.inf))
    assert not to_torch(nothing)(x).any() and not nothing.rough().any() and not nothing.level.any()
    with pytest.raises(ValueError, match=r"level must be positive"):
        solvers.morozov(lambda *_: None, nothing.level)


def test_weighted_discrepancy_meets_the_level_on_average(A, x):
    sigma = 0.1 + torch.rand(12, dtype=torch.float64)
    sigma[:4] = torch.inf
    draws = 4000
    noise = torch.where(sigma < torch.inf, sigma, 0.0) * torch.randn(draws, 12, dtype=torch.float64)
    f = GaussianFidelity(A, to_torch(A)(x[:1]) + noise, sigma)
    ratio = (f.discrepancy(x[:1].expand(draws, -1, -1)) / f.level).mean().item()
    assert ratio == pytest.approx(1.0, abs=4 * np.sqrt(2 / 8 / draws))  # 4 standard deviations
    y = torch.randn(2, 6, dtype=torch.complex128)
    Y = odl.cn(6)
    g = GaussianFidelity(odl.IdentityOperator(Y), y, torch.full((1, 6), 0.5))
    assert torch.equal(g.level, torch.full((2,), 12.0, dtype=torch.float64))
    assert torch.allclose(g.discrepancy(torch.zeros_like(y)), 4 * y.abs().square().sum(1))


def test_weighted_least_squares_scale_to_white_ones(A, X, x):
    """Dividing rows and data by σ makes the noise white: value, curvature, Morozov's choice agree."""
    sigma = torch.linspace(0.05, 0.2, 12, dtype=torch.float64)
    y = to_torch(A)(x) + sigma * torch.randn(3, 12, dtype=torch.float64)
    scaled = Rays(A.domain, A.range, A.matrix / sigma[:, None])
    R = Tikhonov(X, odl.Gradient(X, pad_mode="symmetric"))
    settings = {"tol": 1e-6, "solver": solvers.quasi_newton, "progress": False}
    rec = reconstruct(A, y, R, noise_std=sigma, **settings)
    white = reconstruct(scaled, y / sigma, R, noise_std=1.0, **settings)
    assert torch.allclose(rec.lam, white.lam, rtol=1e-4)
    assert torch.allclose(rec.image, white.image, atol=1e-5)
    assert torch.allclose(rec.residual, white.residual, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_curvature_of_the_latent_problem_with_weighted_data(X, G, dtype):
    """The Gauss-Newton matrix of the hard constraint and its solution, against the normal equations."""
    matrix = torch.randn(12, 20, dtype=getattr(torch, dtype))
    A = Matrix(X, odl.rn(12) if dtype == "float64" else odl.cn(12), matrix)
    sigma = 0.1 + torch.rand(2, 12, dtype=torch.float64)
    sigma[0, 2:9] = torch.inf
    y = torch.randn(2, 12, dtype=getattr(torch, dtype))
    f = GaussianFidelity(A, y, sigma)
    problem = HardConstraint(G).problem(f, torch.full((2,), 0.5, dtype=torch.float64))
    W = G.model.linear.weight.detach().to(matrix.dtype)
    J = (matrix @ W)[None] / sigma[..., None]
    normal = (J.mH @ J).real + torch.eye(3, dtype=torch.float64)
    start = {"z": torch.randn(2, 3, dtype=torch.float64)}
    curvature = problem.curvature["z"](start, **problem.per_sample)
    assert torch.allclose(curvature.matrix(), normal)
    assert torch.allclose(curvature.product(start["z"]), (normal @ start["z"][..., None]).squeeze(-1))
    offset = G.model.linear.bias.detach().to(matrix.dtype) @ matrix.T
    rhs = (J.mH @ ((y - offset) / sigma)[..., None]).real
    solution = solvers.gauss_newton(problem, start, tol=1e-10, progress=False)
    assert torch.allclose(solution.blocks["z"], torch.linalg.solve(normal, rhs).squeeze(-1), atol=1e-8)


def test_joint_prior_takes_weighted_data(X, A, G, x):
    sigma = torch.linspace(0.1, 0.5, 12, dtype=torch.float64)
    y, R = to_torch(A)(x), JointPrior(G, beta=4.0)
    settings = {"lam": 1.0, "tol": 1e-8, "max_iter": 500, "progress": False}
    rec = reconstruct(A, y, R, noise_std=sigma, **settings)
    scaled = Rays(A.domain, A.range, A.matrix / sigma[:, None])
    white = reconstruct(scaled, y / sigma, R, noise_std=1.0, **settings)
    assert torch.allclose(rec.image, white.image, atol=1e-5)
    weighted = R.posterior(GaussianFidelity(A, y, sigma), rec.blocks["z"])
    whitened = R.posterior(GaussianFidelity(scaled, y / sigma, 1.0), rec.blocks["z"])
    assert torch.allclose(weighted.mean, rec.image, atol=1e-5)
    assert torch.allclose(weighted.mean, whitened.mean, atol=1e-7)
    draws = [posterior.sample(4000, 0) for posterior in (weighted, whitened)]
    assert torch.allclose(draws[0], draws[1], atol=1e-6)  # from the same numbers


@pytest.mark.parametrize("kind", ["transmission", "transmission with background"])
def test_hard_constraint_takes_gauss_newton_steps_for_counts(fidelity, kind, G):
    f = fidelity(kind)
    lam = torch.full((len(f.data),), 0.5, dtype=torch.float64)
    problem, start = HardConstraint(G).problem(f, lam), {"z": torch.zeros(len(lam), 3, dtype=torch.float64)}
    newton, quasi = (
        solve(problem, start, tol=1e-7, max_iter=200, progress=False)
        for solve in (solvers.gauss_newton, solvers.quasi_newton)
    )
    assert newton.converged.all() and quasi.converged.all()
    assert torch.allclose(newton.blocks["z"], quasi.blocks["z"], atol=1e-4)
    assert (newton.iterations <= quasi.iterations).all()


@pytest.mark.parametrize("regulariser", [HardConstraint, lambda G: JointPrior(G, beta=4.0)])
def test_what_a_regulariser_cannot_use_is_refused_by_name(fidelity, regulariser, G):
    R, f = regulariser(G), fidelity("l1", 1)
    name = type(R).__name__
    with pytest.raises(
        NotImplementedError, match=f"^{name} needs a fidelity with a gradient, got FunctionalF"
    ):
        R.problem(f, torch.ones(1, dtype=torch.float64))


def test_one_standard_deviation_for_all_data_is_white(A, Y, x):
    y = to_torch(A)(x)
    sigma = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    f = GaussianFidelity(A, y, sigma)
    for same in (sigma[:, None], sigma.numpy()):
        g = GaussianFidelity(A, y, same)
        assert g.white and torch.equal(g.noise_std, sigma)
    full = GaussianFidelity(A, y, sigma[:, None].expand(3, 12))
    assert not full.white and torch.allclose(to_torch(full)(x), to_torch(f)(x))
    assert torch.allclose(full.discrepancy(x) / full.level, f.discrepancy(x) / f.level)
    per_datum = torch.linspace(0.1, 1.0, 12, dtype=torch.float64)
    forms = (per_datum, per_datum[None], per_datum.numpy(), Y.element(per_datum.numpy()))
    values = [to_torch(GaussianFidelity(A, y, form))(x) for form in forms]
    assert all(torch.equal(value, values[0]) for value in values)
    square = odl.rn(3)
    of_samples = GaussianFidelity(odl.IdentityOperator(square), torch.ones(3, 3, dtype=torch.float64), sigma)
    assert of_samples.white  # as many samples as data: (B,) is one for every sample
    assert of_samples.take(torch.tensor([0, 0, 1])).white


def test_functional_fidelity_is_the_functional(A, Y, fidelity, x):
    f = fidelity("huber", 1)
    element = A.domain.element(x[1].numpy())
    y = Y.element(f.data[0].numpy())
    assert f(element) == pytest.approx(odl.functionals.Huber(Y, 0.1).translated(y)(A(element)))
    contained = FunctionalFidelity(A, odl.functionals.Huber(Y, 0.1).translated(y))
    assert contained.kind == "element" and not contained.batched
    assert contained(element) == pytest.approx(f(element))
    assert torch.allclose(contained.rough(), f.rough(), atol=1e-6)
    squares = FunctionalFidelity(A, odl.functionals.L2NormSquared(Y), f.data)
    assert torch.allclose(squares.rough(), GaussianFidelity(A, f.data, 1.0).rough())
    assert squares.discrepancy(x[1:2]).item() == pytest.approx((A(element) - y).norm() ** 2)


def test_functional_fidelity_refuses_what_the_functional_lacks(A, Y, fidelity):
    with pytest.raises(NotImplementedError, match="has no gradient"):
        _ = fidelity("l1", 1).gradient
    square = odl.functionals.L2NormSquared(Y)
    fourth = odl.functionals.functional.FunctionalProduct(square, square)
    f = FunctionalFidelity(A, fourth, torch.ones(12, dtype=torch.float64))
    assert torch.isfinite(f.rough()).all()
    with pytest.raises(NotImplementedError, match="no proximal"):
        f.on_data().prox(torch.ones(1, 12, dtype=torch.float64), 1.0)
    with pytest.raises(ValueError, match=r"level must be positive, got \[nan\]"):
        solvers.morozov(lambda *_: None, f.level)


def test_reconstruction_from_counts_meets_the_level(A, X, fidelity):
    f = fidelity("transmission with background")
    settings = {"tol": 1e-4, "max_iter": 60, "progress": False}
    R = Tikhonov(X, odl.Gradient(X, pad_mode="symmetric"))
    rec = reconstruct(A, f.data, R, fidelity=f, solver=solvers.quasi_newton, **settings)
    assert torch.allclose(rec.residual, f.discrepancy(rec.image))
    met = rec.status == Status.CONVERGED
    assert met.any() and ((rec.discrepancy[met] <= 1.0) & (rec.discrepancy[met] > 0.9)).all()
    alone = fidelity("transmission with background", 0)
    single = reconstruct(
        A, alone.data[0], R, fidelity=alone, lam=rec.lam[0], solver=solvers.quasi_newton, **settings
    )
    assert torch.allclose(single.image, rec.image[0], atol=1e-3)


def test_outliers_do_not_bend_a_reconstruction_by_absolute_values(X, x):
    Y = odl.rn(60)  # three times as many data as pixels
    A = Rays(X, Y)
    y = to_torch(A)(x)[0]
    y[3] += 50.0
    f = FunctionalFidelity(A, odl.functionals.L1Norm(Y), y)
    rec = reconstruct(A, y, TotalVariation(X), fidelity=f, lam=1e-3, max_iter=1500, progress=False)
    residual = to_torch(A)(rec.image) - y
    assert residual[3] == pytest.approx(-50.0, abs=1.0)
    residual[3] = 0.0
    assert residual.abs().max() < 1e-2
    assert torch.isnan(rec.level)
    with pytest.raises(ValueError, match="needs the level of the noise"):
        reconstruct(A, y, TotalVariation(X), fidelity=f, progress=False)


def test_parameters_of_data_may_have_any_shape_that_fits(A, Y, x):
    y = torch.full((3, 12), 7.0, dtype=torch.float64)
    per_sample, per_datum = torch.tensor([1.0, 2.0, 3.0]), torch.arange(1.0, 13.0)
    value = to_torch(PoissonFidelity(A, y, intensity=per_sample, background=per_datum))(x)
    full = PoissonFidelity(
        A, y, intensity=per_sample[:, None].expand(3, 12), background=Y.element(per_datum.numpy())
    )
    assert torch.allclose(to_torch(full)(x), value)
    square = odl.rn(3)
    ambiguous = torch.ones(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="give it the shape"):
        PoissonFidelity(odl.IdentityOperator(square), ambiguous, background=torch.ones(3))
    clear = [torch.ones(3, 1), torch.ones(1, 3), square.one()]
    assert all(PoissonFidelity(odl.IdentityOperator(square), ambiguous, background=b).batched for b in clear)


@pytest.mark.parametrize("kind", KINDS)
def test_representation_and_single_values(fidelity, kind):
    f = fidelity(kind)
    assert "Fidelity(" in repr(f)
    if len(f.data) > 1:
        with pytest.raises(ValueError, match="batch of 3"):
            f(f.domain.one())


COUNTS = torch.full((3, 12), 4.0, dtype=torch.float64)


@refuses(
    (lambda A: PoissonFidelity("A", COUNTS), TypeError, "A must be an ODL operator, got str"),
    (lambda A: PoissonFidelity(A, COUNTS[:, :5]), ValueError, "y"),
    (lambda A: PoissonFidelity(A, COUNTS - 5), ValueError, "y must be counts, >= 0, got 36 negative"),
    (lambda A: PoissonFidelity(A, COUNTS * torch.nan), ValueError, "y must be finite"),
    (lambda A: PoissonFidelity(A, COUNTS, background=-1), ValueError, "background must be >= 0, got -1"),
    (lambda A: PoissonFidelity(A, COUNTS, background=torch.nan), ValueError, "background must be finite"),
    (lambda A: PoissonFidelity(A, COUNTS, intensity=0.0), ValueError, "intensity must be positive, got 0"),
    (lambda A: PoissonFidelity(A, COUNTS, intensity=np.inf), ValueError, "intensity must be finite"),
    (
        lambda A: PoissonFidelity(A, COUNTS, intensity=torch.ones(5)),
        ValueError,
        r"intensity must be a number or have the shape \(3,\), \(12,\) or \(3, 12\), got \(5,\)",
    ),
    (lambda A: PoissonFidelity(A, COUNTS, background=torch.ones(2, 12)), ValueError, "background must"),
    (
        lambda A: PoissonFidelity(odl.IdentityOperator(odl.cn(3)), odl.cn(3).one()),
        TypeError,
        "A must have a real range",
    ),
    (lambda A: GaussianFidelity(A, COUNTS, torch.inf), ValueError, "noise_std must be positive and finite"),
    (lambda A: GaussianFidelity(A, COUNTS, "1"), TypeError, "noise_std must be a number or a tensor"),
    (lambda A: GaussianFidelity(A, COUNTS, torch.zeros(12)), ValueError, "noise_std must be positive, got 0"),
    (
        lambda A: GaussianFidelity(A, COUNTS, torch.full((12,), torch.nan)),
        ValueError,
        r"noise_std must be finite or \+inf, got 12 NaN",
    ),
    (
        lambda A: GaussianFidelity(A, COUNTS, torch.ones(5)),
        ValueError,
        r"noise_std must be a number or have the shape \(3,\), \(12,\) or \(3, 12\), got \(5,\)",
    ),
    (
        lambda A: GaussianFidelity(A, COUNTS, torch.ones(12, dtype=torch.complex64)),
        TypeError,
        "noise_std must be real",
    ),
    (lambda A: FunctionalFidelity("A", odl.functionals.L1Norm(odl.rn(3))), TypeError, "A must be"),
    (lambda A: FunctionalFidelity(A, "L1", COUNTS), TypeError, "functional must be an ODL functional"),
    (
        lambda A: FunctionalFidelity(A, odl.functionals.L1Norm(A.domain), COUNTS),
        ValueError,
        "functional must be defined on the range of A",
    ),
    (
        lambda A: FunctionalFidelity(A, odl.functionals.L1Norm(A.range), COUNTS, level=-1.0),
        ValueError,
        "level must be positive",
    ),
    (
        lambda A: FunctionalFidelity(A, odl.functionals.L1Norm(A.range), COUNTS, level=torch.ones(2)),
        ValueError,
        "level must be a number or have the shape",
    ),
)
def test_errors(A, make):
    make(A)


@pytest.mark.parametrize("few", [False, True], ids=["nonlinear", "fewer data than latents"])
def test_curvature_with_weights_on_data_of_two_axes(few):
    """By the columns of reverse or full differentiation: the matrix and its products agree."""
    X = odl.uniform_discr([0, 0], [4, 5], (4, 5))
    G = Generator(LinearModel(), X)
    A = odl.PowerOperator(X, 2) * odl.IdentityOperator(X)
    if few:
        A = ray_transform(X, tomo.parallel_beam_geometry(X, 1, det_shape=2), cache=False)  # 1 x 2 data
    y = torch.randn(3, *A.range.shape, dtype=torch.float64)
    sigma = 0.5 + torch.rand(3, *A.range.shape, dtype=torch.float64)
    sigma[0].view(-1)[0] = torch.inf
    problem = HardConstraint(G).problem(GaussianFidelity(A, y, sigma), torch.full((3,), 0.5).double())
    z, p = torch.randn(2, 3, 3, dtype=torch.float64)
    curvature = problem.curvature["z"]({"z": z}, **problem.per_sample)
    assert torch.allclose((curvature.matrix() @ p[..., None])[..., 0], curvature.product(p))


@pytest.mark.parametrize("noise", ["one", "per sample", "per datum", "masks"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_normaliser_of_gaussian_noise(noise, dtype):
    Y = odl.rn(4) if dtype == torch.float64 else odl.cn(4)
    A = odl.IdentityOperator(Y)
    x, y = (torch.randn(3, 4, dtype=dtype, generator=torch.Generator().manual_seed(k)) for k in range(2))
    sigma = {
        "one": torch.tensor(0.3),
        "per sample": torch.tensor([[0.2], [0.5], [2.0]]),
        "per datum": torch.tensor([0.2, 0.5, 1.0, 2.0]),
        "masks": torch.tensor([[0.2, torch.inf, 1.0, 2.0]] * 2 + [4 * [torch.inf]]),
    }[noise].double()
    fidelity = GaussianFidelity(A, y, sigma.flatten() if noise == "per sample" else sigma)
    terms = torch.distributions.Normal(0.0, sigma.expand(3, 4).clamp_max(1e9))
    residuals = (x - y).real, (x - y).imag if dtype.is_complex else None
    density = sum(terms.log_prob(r) for r in residuals if r is not None)
    expected = torch.where(sigma.isfinite(), density, 0.0).sum(1)
    torch.testing.assert_close(-to_torch(fidelity)(x) - fidelity.log_normaliser, expected)
    taken = fidelity.take(torch.tensor([2, 0])).log_normaliser
    torch.testing.assert_close(taken, fidelity.log_normaliser[[2, 0]])


@pytest.mark.parametrize("intensity", [None, 5.0])
def test_the_normaliser_of_counts(intensity):
    Y = odl.rn(4)
    x = torch.rand(3, 4, dtype=torch.float64) + 0.5
    y = torch.tensor([[0.0, 1.0, 2.0, 30.0]], dtype=torch.float64).expand(3, 4)
    fidelity = PoissonFidelity(odl.IdentityOperator(Y), y, background=0.5, intensity=intensity)
    rate = 0.5 + (x if intensity is None else 5.0 * torch.exp(-x))
    expected = torch.distributions.Poisson(rate).log_prob(y).sum(1)
    torch.testing.assert_close(-to_torch(fidelity)(x) - fidelity.log_normaliser, expected)
    # all counts together have the probability one
    line = PoissonFidelity(odl.IdentityOperator(odl.rn(1)), torch.arange(80.0, dtype=torch.float64)[:, None])
    probability = (-to_torch(line)(torch.tensor([[3.0]], dtype=torch.float64)) - line.log_normaliser).exp()
    assert float(probability.sum()) == pytest.approx(1)


def test_the_normaliser_of_other_functionals_is_not_known():
    Y = odl.rn(4)
    fidelity = FunctionalFidelity(
        odl.IdentityOperator(Y), odl.functionals.L1Norm(Y), torch.zeros(3, 4).double()
    )
    assert torch.equal(fidelity.log_normaliser, torch.zeros(3, dtype=torch.float64))
