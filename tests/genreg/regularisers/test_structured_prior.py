"""The joint prior of decoders with a precision for every z: closed forms, profiles, posterior samples, bad input."""

import functools

import numpy as np
import odl
import pytest
import torch

from genreg import GaussianFidelity, Generator, JointPrior, PoissonFidelity, reconstruct, solvers, to_torch
from genreg.operators import (
    DiagonalPrecision,
    GaussianPosterior,
    IsotropicPrecision,
    SparseCholeskyPrecision,
    derivative_test,
    fourier_sampling,
    gaussian_measurements,
    mask,
)
from genreg.solvers import QuasiNewton, Status
from genreg.solvers.generative.structured import StructuredProblem

from ..conftest import LinearModel

SIGMA = 0.3
LAM = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


class StructuredModel(LinearModel):
    """μ = W z + b and a factor whose logarithmic diagonal and weights are affine in z."""

    def __init__(self, shape=(4, 5), distance=1, slope=0.0):
        super().__init__(shape)
        self.config = type("Config", (), {"distance": distance, "dilation": 1})()
        torch.manual_seed(4)
        count = ((2 * distance + 1) ** 2 - 1) // 2
        if len(shape) == 3:
            count = shape[0] * count + shape[0] * (shape[0] - 1) // 2
        log_diag = 0.5 + 0.3 * torch.randn(shape, dtype=torch.float64)
        weights = 0.4 * torch.randn(count, *shape[-2:], dtype=torch.float64)
        self.factor = log_diag, weights if count else None
        self.directions = torch.randn(self.latent_dim, dtype=torch.float64) * slope

    def decode_factor(self, z):
        def affine(part):
            return part + (z @ self.directions).view(-1, *(1,) * part.ndim) * part.sin()

        log_diag, weights = self.factor
        return affine(log_diag), None if weights is None else affine(weights)


def structured(X, **options):
    return Generator(StructuredModel(tuple(X.shape), **options), X)


def dense(A):
    """The matrix of A on samples, real for complex data as well."""
    size = A.domain.size
    out = to_torch(A)(torch.eye(size, dtype=torch.float64).unflatten(1, A.domain.shape)).flatten(1)
    return torch.cat((out.real, out.imag), 1).T if out.is_complex() else out.T


def flat(y):
    y = y.flatten(1)
    return torch.cat((y.real, y.imag), 1) if y.is_complex() else y


def closed_form(A, G, y, lam):
    """Minimiser for a factor that does not depend on z, from the dense normal equations."""
    M, size, eye = dense(A), A.domain.size, torch.eye(3, dtype=torch.float64)
    b = G.module(0 * eye[:1]).flatten(1)[0]
    W = (G.module(eye).flatten(1) - b).T
    P = lam * G.decode(0 * eye[:1]).precision.to_dense()[0]
    top = torch.cat((M.T @ M / SIGMA**2 + P, -P @ W), 1)
    bottom = torch.cat((-W.T @ P, W.T @ P @ W + lam * eye), 1)
    right = torch.cat((M.T @ flat(y[None])[0] / SIGMA**2 + P @ b, -W.T @ P @ b))
    v = torch.linalg.solve(torch.cat((top, bottom)), right)
    return v[:size].reshape(A.domain.shape), v[size:]


@pytest.fixture(params=[0, 1])
def distance(request):
    return request.param


def test_a_generator_decodes_a_precision(X, distance):
    G = structured(X, distance=distance, slope=0.2)
    z = torch.randn(2, 3, dtype=torch.float64)
    decoded = G.decode(z)
    kind = SparseCholeskyPrecision if distance else DiagonalPrecision
    assert G.structured and isinstance(decoded.precision, kind) and decoded.precision.batch == (2,)
    log_diag, weights = G.model.decode_factor(z)
    L = torch.zeros(2, 20, 20, dtype=torch.float64)
    offsets = [(0, 1), (1, -1), (1, 0), (1, 1)] if distance == 1 else []
    for i in range(4):
        for j in range(5):
            L[:, 5 * i + j, 5 * i + j] = log_diag[:, i, j].exp()
            for k, (a, b) in enumerate(offsets):
                if i + a < 4 and 0 <= j + b < 5:
                    L[:, 5 * (i + a) + j + b, 5 * i + j] = weights[:, k, i, j]
    assert torch.allclose(decoded.precision.to_dense(), L @ L.mT)


def test_value_is_the_density(X, distance):
    G = structured(X, distance=distance, slope=0.2)
    R = JointPrior(G)
    assert R.structured and R.beta is None
    torch.manual_seed(0)
    x, z = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    decoded = G.decode(z)
    normal = torch.distributions.MultivariateNormal(
        decoded.mean.flatten(1), precision_matrix=decoded.precision.to_dense()
    )
    expected = -normal.log_prob(x.flatten(1)) + 0.5 * z.square().sum(1)
    assert torch.allclose(to_torch(R)((x, z)), expected - 10 * np.log(2 * np.pi))
    point = R.domain.element([x[0].numpy(), z[0].numpy()])
    assert R(point) == pytest.approx(float(to_torch(R)((x, z))[0]))
    derivative_test(R)
    if distance:
        derivative_test(R.marginal)
    isotropic = JointPrior(G, 3.0)  # of the same mean
    assert not isotropic.structured
    error = (x - decoded.mean).square().sum((1, 2))
    assert torch.allclose(to_torch(isotropic)((x, z)), 1.5 * error + 0.5 * z.square().sum(1))


def test_reconstruction_has_the_closed_form(A, X, y, distance):
    G = structured(X, distance=distance)
    R = JointPrior(G)
    settings = {"noise_std": SIGMA, "tol": 1e-8, "progress": False, "init": "encoder" if distance else "zero"}
    rec = reconstruct(A, y, R, lam=LAM, **settings)
    assert (rec.status == Status.CONVERGED).all()
    fidelity = GaussianFidelity(A, y, SIGMA)
    for k in range(3):
        x, z = closed_form(A, G, y[k], LAM[k])
        assert torch.allclose(rec.image[k], x, atol=1e-6) and torch.allclose(rec.blocks["z"][k], z, atol=1e-6)
    alone = reconstruct(A, y[1], R, lam=float(LAM[1]), **settings)
    assert torch.allclose(alone.image, rec.image[1], atol=1e-6)
    value = fidelity.misfit(to_torch(A)(rec.image), **fidelity.per_sample)
    assert torch.allclose(rec.value, value + LAM * to_torch(R)((rec.image, rec.blocks["z"])))


def test_profile_is_the_joint_minimum(A, X, y):
    G = structured(X, slope=0.2)
    R = JointPrior(G)
    problem = R.problem(GaussianFidelity(A, y, SIGMA), torch.ones(3, dtype=torch.float64))
    assert isinstance(problem, StructuredProblem)
    problem = StructuredProblem.of(A, G.decode, G.domain, 1e-10, **problem.per_sample)
    profile = problem.profile()
    z, d = torch.randn(2, 3, 3, dtype=torch.float64)
    value, gradient = profile.value_and_gradient({"z": z})
    x = problem.image(z)
    joint, gradients = problem.value_and_gradient({"x": x, "z": z})
    assert torch.allclose(value, joint) and torch.allclose(gradient["z"], gradients["z"])
    assert gradients["x"].abs().max() < 1e-7
    h = 1e-5
    slope = (profile({"z": z + h * d}) - profile({"z": z - h * d})) / (2 * h)
    assert torch.allclose(slope, (gradient["z"] * d).sum(1), rtol=1e-6)
    start = {"x": problem.image(0 * z), "z": 0 * z}
    exact = R.solver(problem, start, tol=1e-8, progress=False)
    general = solvers.lbfgs(problem, start, tol=1e-9, max_iter=2000, progress=False)
    substituted = R.solver(
        super(JointPrior, R).problem(GaussianFidelity(A, y, SIGMA), LAM / LAM), start, tol=1e-8
    )
    assert torch.allclose(exact.value, general.value, rtol=1e-8)
    assert torch.allclose(exact.value, substituted.value, rtol=1e-8)


def test_other_fidelities_go_through_lbfgs(A, X):
    G = structured(X, slope=0.1)
    counts = 40 + 3 * torch.rand(2, *A.range.shape, dtype=torch.float64)
    fidelity = PoissonFidelity(A, counts, background=40.0)
    rec = reconstruct(A, counts, JointPrior(G), fidelity=fidelity, lam=1.0, init="zero", progress=False)
    assert (rec.status == Status.CONVERGED).all()


def test_the_discrepancy_principle_holds_with_a_structured_prior(A, X):
    G = structured(X, distance=0, slope=0.1)
    z = torch.randn(2, 3, dtype=torch.float64)
    clean = to_torch(A)(G.decode(z).mean + 0.5 * torch.randn(2, 4, 5, dtype=torch.float64))
    y = clean + SIGMA * torch.randn_like(clean)
    rec = reconstruct(A, y, JointPrior(G), noise_std=SIGMA, lam="morozov", progress=False)
    assert torch.allclose(rec.residual, torch.full((2,), 12 * SIGMA**2, dtype=torch.float64), rtol=0.05)


def operators():
    X = odl.uniform_discr([0, 0], [8, 5], (4, 5))  # cell volume 2
    two = odl.rn((2, 4, 5))
    keep = torch.arange(20).view(4, 5) % 3 != 1
    return {
        "gaussian": gaussian_measurements(X, 12, seed=0),
        "mask": mask(X, keep.numpy()),
        "fourier": fourier_sampling(X, keep.numpy()),
        "two-channel fourier": fourier_sampling(two, keep.numpy()),
    }


@pytest.mark.parametrize("name", operators())
def test_the_posterior_given_z_is_the_gaussian(name):
    A = operators()[name]
    G = structured(A.domain, slope=0.2)
    torch.manual_seed(5)
    z = torch.randn(2, 3, dtype=torch.float64)
    decoded = G.decode(z)
    truth = decoded.mean + decoded.precision.sample(1, 0)[0]
    y = to_torch(A)(truth)
    fidelity = GaussianFidelity(A, y, torch.tensor([0.1, 0.4], dtype=torch.float64))
    p = JointPrior(G).posterior(fidelity, z)
    M, size = dense(A), A.domain.size
    P = M.T @ M * fidelity.inverse_variance[:, None, None] + decoded.precision.to_dense()
    v = torch.randn(4, 2, *A.domain.shape, dtype=torch.float64)
    assert torch.allclose(p.times(v).flatten(2), torch.einsum("bij,sbj->sbi", P, v.flatten(2)))
    pull = (flat(y) - decoded.mean.flatten(1) @ M.T) @ M * fidelity.inverse_variance[:, None]
    mean = decoded.mean.flatten(1) + torch.linalg.solve(P, pull)
    error = p.mean.flatten(1) - mean
    assert bool((torch.einsum("bi,bij,bj->b", error, P, error) <= size * p.tol**2).all())
    tight = GaussianPosterior(A, y, decoded.mean, decoded.precision, fidelity.inverse_variance, tol=1e-10)
    assert torch.allclose(tight.mean.flatten(1), mean) and bool((tight.last_error <= 1e-10).all())
    assert torch.allclose(tight.solve(tight.times(v)), v)

    draws = p.sample(600, 1)
    assert torch.equal(p.sample(3, 1), p.sample(3, 1)) and draws.shape == (600, 2, *A.domain.shape)
    e = (draws - p.mean).flatten(2)
    covariance = torch.einsum("sbi,sbj->bij", e, e) / len(e)
    expected = torch.linalg.inv(P)
    variance = expected.diagonal(dim1=1, dim2=2)
    scale = (variance[:, :, None] * variance[:, None, :] + expected.square()) / len(e)
    assert float(((covariance - expected) / scale.sqrt()).abs().max()) < 5.5  # of 800 to 3,200 entries
    assert torch.allclose(p.std(600, 1).flatten(1), covariance.diagonal(dim1=1, dim2=2).sqrt())
    problem = JointPrior(G).problem(fidelity, torch.ones(2, dtype=torch.float64))
    assert torch.allclose(problem.image(z), p.mean)


def test_the_isotropic_prior_has_the_same_posterior_class(A, G, y):
    z = torch.zeros(3, 3, dtype=torch.float64)
    p = JointPrior(G, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).posterior(
        GaussianFidelity(A, y, SIGMA), z
    )
    rec = to_torch(A)(p.mean) - y
    stationary = to_torch(A).adjoint(rec / SIGMA**2) * 2  # the cell volume
    pull = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None] * (p.mean - p.prior_mean)
    assert isinstance(p.precision, IsotropicPrecision)
    assert (stationary + pull).abs().max() < 0.05


def test_single_images_and_elements(A, X):
    G = structured(X, slope=0.1)
    y = A(X.one())
    rec = reconstruct(A, y, JointPrior(G), noise_std=SIGMA, lam=1.0, progress=False)
    assert rec.image in X and rec.blocks["z"] in G.domain
    tensor = reconstruct(
        A, torch.from_numpy(np.asarray(y.data)), JointPrior(G), noise_std=SIGMA, lam=1.0, progress=False
    )
    assert np.allclose(np.asarray(rec.image.data), tensor.image.numpy())


def test_a_sample_whose_precision_overflows_does_not_harm_the_others(A, X, y):
    G = structured(X, slope=0.2)
    bad = y.clone()
    start = {"z": torch.zeros(3, 3, dtype=torch.float64)}
    start["z"][1] = 1e8
    R = JointPrior(G)
    problem = R.problem(GaussianFidelity(A, bad, SIGMA), torch.ones(3, dtype=torch.float64))
    solution = solvers.quasi_newton(problem.profile(), start, tol=1e-6, progress=False)
    assert solution.status[1] == Status.NON_FINITE
    assert (solution.status[[0, 2]] == Status.CONVERGED).all()


def test_bad_input(A, G, X, y):
    R = JointPrior(structured(X))
    fidelity = GaussianFidelity(A, y, SIGMA)
    z = torch.zeros(3, 3, dtype=torch.float64)
    with pytest.raises(TypeError, match="fidelity must be a GaussianFidelity, got str"):
        R.posterior("data", z)
    with pytest.raises(ValueError, match=r"z must have the shape \(3, 3\), got \(2, 3\)"):
        R.posterior(fidelity, z[:2])
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        JointPrior(structured(X), 0.0)
    precision = IsotropicPrecision(X, 1.0)
    mean = torch.zeros(3, 4, 5, dtype=torch.float64)
    with pytest.raises(TypeError, match="A must be a linear ODL operator"):
        GaussianPosterior(odl.PowerOperator(X, 2), y, mean, precision, 1.0)
    with pytest.raises(TypeError, match="precision must be a Precision, got float"):
        GaussianPosterior(A, y, mean, 1.0, 1.0)
    with pytest.raises(ValueError, match="must share the image space"):
        GaussianPosterior(A, y, mean, IsotropicPrecision(odl.rn((4, 5)), 1.0), 1.0)
    with pytest.raises(ValueError, match=r"y must be \(B, \*\(12,\)\), got \(3, 11\)"):
        GaussianPosterior(A, y[:, 1:], mean, precision, 1.0)
    with pytest.raises(ValueError, match=r"prior_mean must be .* got \(2, 4, 5\)"):
        GaussianPosterior(A, y, mean[:2], precision, 1.0)
    posterior = GaussianPosterior(A, y, mean, precision, 1.0, max_iter=1, tol=1e-12)
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        posterior.sample(0)
    with pytest.warns(RuntimeWarning, match="after max_iter = 1 iterations"):
        _ = posterior.mean


@pytest.mark.parametrize("init", ["encoder", "zero"])
def test_many_latent_dimensions_take_a_limited_memory(A, X, y, init, monkeypatch):
    R = JointPrior(structured(X, slope=0.2))
    settings = {"noise_std": SIGMA, "lam": 1.0, "tol": 1e-7, "init": init, "progress": False}
    dense = reconstruct(A, y, R, **settings)
    limited = functools.partial(QuasiNewton, dense=2)
    monkeypatch.setattr("genreg.solvers.generative.profiled.QuasiNewton", limited)
    limited = reconstruct(A, y, R, **settings)
    assert (limited.status == Status.CONVERGED).all()
    assert torch.allclose(limited.value, dense.value, rtol=1e-8)
    assert torch.allclose(limited.image, dense.image, atol=1e-4)


def test_noise_of_every_datum_is_the_whitened_problem(A, X, y):
    sigma = 0.2 + 0.3 * torch.rand(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sigma[0, 1] = torch.inf
    R = JointPrior(structured(X, slope=0.2))
    settings = {"lam": 1.0, "tol": 1e-8, "progress": False}
    together = reconstruct(A, y, R, noise_std=sigma, **settings)
    assert (together.status == Status.CONVERGED).all()
    for k in (0, 2):
        whitened = odl.MultiplyOperator(A.range.element((1 / sigma[k]).numpy())) * A
        alone = reconstruct(whitened, y[k] / sigma[k], R, noise_std=1.0, **settings)
        assert torch.allclose(together.image[k], alone.image, atol=1e-5)
        assert torch.allclose(together.value[k], alone.value, rtol=1e-8)


def test_the_profile_is_a_function_of_z(A, X, y):
    """The same z has the same value and gradient whatever was evaluated before, in any part of the batch."""
    prior = JointPrior(structured(X, slope=0.2))
    problem = prior.problem(GaussianFidelity(A, y, SIGMA), torch.ones(3, dtype=torch.float64))
    profile, (z, other) = problem.profile(), torch.randn(2, 3, 3, dtype=torch.float64)
    value, gradient = profile.value_and_gradient({"z": z})
    profile({"z": other})
    again, slope = profile.value_and_gradient({"z": z})
    assert torch.equal(again, value) and torch.equal(slope["z"], gradient["z"])
    rows = torch.tensor([2, 0])
    assert torch.allclose(profile.take(rows)({"z": z[rows]}), value[rows], rtol=1e-9)
