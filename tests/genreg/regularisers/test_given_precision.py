"""The joint prior with a given precision, the same for all z: closed forms, samples, bad input."""

import numpy as np
import odl
import pytest
import torch

from genreg import GaussianFidelity, Generator, JointPrior, PoissonFidelity, reconstruct, to_torch
from genreg.operators import (
    DenseCholeskyPrecision,
    DiagonalPrecision,
    IsotropicPrecision,
    derivative_test,
    gaussian_measurements,
)
from genreg.sampling import gibbs
from genreg.solvers import Status
from genreg.solvers.generative.structured import StructuredProblem

from .test_structured_prior import SIGMA, dense, structured

LAM = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def precision_matrix(n=20):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, dtype=torch.float64, generator=generator)
    return 3 * root @ root.T / n + 0.5 * torch.eye(n, dtype=torch.float64)


class Flat(torch.nn.Module):
    """A linear decoder, of the pixels in a row, as images."""

    def __init__(self, shape, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.shape = torch.nn.Linear(3, int(np.prod(shape)), dtype=dtype), shape

    def forward(self, z):
        return self.linear(z).unflatten(1, self.shape)


def line(dtype="float64"):
    """A plain linear layer as the generator, on a weighted space of signals."""
    X = odl.uniform_discr(0, 10, 20, dtype=dtype)
    torch.manual_seed(3)
    return Generator(torch.nn.Linear(3, 20, dtype=torch.float64), X, latent_dim=3)


def images():
    X = odl.uniform_discr([0, 0], [8, 5], (4, 5))
    return Generator(Flat((4, 5)), X, latent_dim=3)


def unweighted():
    return Generator(Flat((4, 5)), odl.rn((4, 5)), latent_dim=3)


def parts(G):
    """W and b of G(z) = W z + b."""
    layer = getattr(G.model, "linear", G.model)
    return layer.weight.detach(), layer.bias.detach()


def joint_minimum(A, G, y, P, lam=1.0):
    """Minimiser of ‖Ax - y‖²/(2σ²) + λ (½ ‖x - Wz - b‖²_P + ½ ‖z‖²) from the dense normal equations."""
    M, (W, b), eye = dense(A), parts(G), torch.eye(3, dtype=torch.float64)
    P = lam * P
    top = torch.cat((M.T @ M / SIGMA**2 + P, -P @ W), 1)
    bottom = torch.cat((-W.T @ P, W.T @ P @ W + lam * eye), 1)
    right = torch.cat((M.T @ y / SIGMA**2 + P @ b, -W.T @ P @ b))
    v = torch.linalg.solve(torch.cat((top, bottom)), right)
    return v[:20].reshape(A.domain.shape), v[20:]


def data(A, n=3):
    return torch.randn(n, *A.range.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [line, images, unweighted])
def test_reconstruction_has_the_closed_form(make):
    G, P = make(), precision_matrix()
    A = gaussian_measurements(G.range, 12, seed=0)
    y, prior = data(A), JointPrior(G, DenseCholeskyPrecision.of(G.range, P))
    settings = {"noise_std": SIGMA, "tol": 1e-10, "progress": False}
    rec = reconstruct(A, y, prior, lam=LAM, **settings)
    assert (rec.status == Status.CONVERGED).all()
    for k in range(3):
        x, z = joint_minimum(A, G, y[k], P, LAM[k])
        assert torch.allclose(rec.image[k], x, atol=1e-6) and torch.allclose(rec.blocks["z"][k], z, atol=1e-6)
    fidelity = GaussianFidelity(A, y, SIGMA)
    value = fidelity.misfit(to_torch(A)(rec.image), **fidelity.per_sample)
    assert torch.allclose(rec.value, value + LAM * to_torch(prior)((rec.image, rec.blocks["z"])))
    alone = reconstruct(A, y[1], prior, lam=1.0, **settings)
    assert torch.allclose(alone.image, rec.image[1], atol=1e-6)
    element = reconstruct(A, A.range.element(y[1].numpy()), prior, lam=1.0, **settings)
    assert element.image in G.range and np.allclose(element.image.data, alone.image.numpy())


def test_single_precision():
    G, P = line("float32"), precision_matrix()
    A = gaussian_measurements(G.range, 12, seed=0)
    double = line()
    y = data(A)
    prior = JointPrior(G, DenseCholeskyPrecision.of(G.range, P))
    rec = reconstruct(A, y.float(), prior, noise_std=SIGMA, lam=1.0, progress=False)
    same = gaussian_measurements(double.range, 12, seed=0)
    for k in range(3):
        x, _ = joint_minimum(same, double, y[k], P)
        error = rec.image[k].double() - x
        assert float((error @ P @ error / 20).sqrt()) < 1e-2  # in standard deviations of the prior


def test_value_is_the_density():
    G, P = images(), precision_matrix()
    R = JointPrior(G, DenseCholeskyPrecision.of(G.range, P))
    assert R.structured and R.beta is None and R.take(torch.arange(2)) is R
    x, z = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    decoded = R.decode(z)
    assert decoded.precision is R.precision and decoded.mean.equal(G.module(z))
    normal = torch.distributions.MultivariateNormal(decoded.mean.flatten(1), precision_matrix=P)
    expected = -normal.log_prob(x.flatten(1)) + 0.5 * z.square().sum(1)
    assert torch.allclose(to_torch(R)((x, z)), expected - 10 * np.log(2 * np.pi))
    point = R.domain.element([x[0].numpy(), z[0].numpy()])
    assert R(point) == pytest.approx(float(to_torch(R)((x, z))[0]))
    derivative_test(R)
    derivative_test(R.marginal)
    W, b = parts(G)
    r = x[0].flatten() - b
    marginal = 0.5 * r @ torch.linalg.solve(torch.linalg.inv(P) + W @ W.T, r) - 0.5 * torch.logdet(P)
    assert R.marginal(point[0]) == pytest.approx(float(marginal), rel=1e-6)


@pytest.mark.parametrize("kind", [DenseCholeskyPrecision, DiagonalPrecision, IsotropicPrecision])
def test_a_multiple_of_the_identity_is_a_beta(A, G, X, y, kind):
    beta = 4.0
    precision = {
        DenseCholeskyPrecision: lambda: DenseCholeskyPrecision.of(X, beta * torch.eye(20)),
        DiagonalPrecision: lambda: DiagonalPrecision(X, torch.full((4, 5), np.log(beta))),
        IsotropicPrecision: lambda: IsotropicPrecision(X, beta),
    }[kind]()
    settings = {"noise_std": SIGMA, "lam": 1.0, "tol": 1e-10, "progress": False}
    expected = reconstruct(A, y, JointPrior(G, beta), **settings)
    found = reconstruct(A, y, JointPrior(G, precision), **settings)
    assert torch.allclose(found.image, expected.image, atol=1e-6)
    assert torch.allclose(found.blocks["z"], expected.blocks["z"], atol=1e-6)
    assert torch.allclose(found.value, expected.value - 10 * np.log(beta))
    fidelity, z = GaussianFidelity(A, y, SIGMA), expected.blocks["z"]
    for given in (beta, precision):
        p = JointPrior(G, given).posterior(fidelity, z)
        assert torch.allclose(p.mean, expected.image, atol=1e-6)


def test_it_takes_the_place_of_what_a_structured_model_has_learned(A, X, y):
    P = precision_matrix()
    G = structured(X, slope=0.2)
    prior = JointPrior(G, DenseCholeskyPrecision.of(X, P))
    rec = reconstruct(A, y, prior, noise_std=SIGMA, lam=1.0, tol=1e-9, progress=False)
    for k in range(3):
        x, z = joint_minimum(A, G, y[k], P)
        assert torch.allclose(rec.image[k], x, atol=1e-6) and torch.allclose(rec.blocks["z"][k], z, atol=1e-6)


def test_problem_and_posterior(A, X, y):
    P, G = precision_matrix(), images()
    prior = JointPrior(G, DenseCholeskyPrecision.of(X, P))
    fidelity = GaussianFidelity(A, y, SIGMA)
    problem = prior.problem(fidelity, LAM)
    assert isinstance(problem, StructuredProblem)
    x, z = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    misfit = fidelity.misfit(to_torch(A)(x), **fidelity.per_sample)
    assert torch.allclose(problem({"x": x, "z": z}), misfit + LAM * to_torch(prior)((x, z)))
    value, gradient = problem.profile().value_and_gradient({"z": z})
    best = {"x": problem.image(z), "z": z}
    joint, gradients = problem.value_and_gradient(best)
    assert torch.allclose(value, joint) and torch.allclose(gradient["z"], gradients["z"], atol=1e-6)
    M, (W, b) = dense(A), parts(G)
    mean = z @ W.T + b
    pull = (y - mean @ M.T) @ M / SIGMA**2
    expected = mean + torch.linalg.solve(M.T @ M / SIGMA**2 + P, pull.T).T
    assert torch.allclose(prior.posterior(fidelity, z).mean.flatten(1), expected)


def test_other_fidelities_go_through_lbfgs(A, X):
    prior = JointPrior(images(), DenseCholeskyPrecision.of(X, precision_matrix()))
    counts = 40 + 3 * torch.rand(2, *A.range.shape, dtype=torch.float64)
    fidelity = PoissonFidelity(A, counts, background=40.0)
    rec = reconstruct(A, counts, prior, fidelity=fidelity, lam=1.0, init="zero", progress=False)
    assert (rec.status == Status.CONVERGED).all()


def test_samples_of_the_joint_posterior(A, X, y):
    P, G = precision_matrix(), images()
    prior = JointPrior(G, DenseCholeskyPrecision.of(X, P))
    z = torch.zeros(1, 3, dtype=torch.float64)
    fidelity = GaussianFidelity(A, y[:1], SIGMA)
    found = gibbs(prior, fidelity, z, draws=5, burn_in=20, thin=2, chains=80, step=0.1, progress=False)
    mean = torch.cat([t.flatten() for t in joint_minimum(A, G, y[0], P)])  # that of a Gaussian, and its mode
    draws = torch.cat((found.x.flatten(3), found.z), -1)[:, :, 0].mean(0)  # (chains, 23)
    spread = draws.std(0) / 80**0.5  # the chains are independent
    assert bool(((draws.mean(0) - mean).abs() < 4.5 * spread).all())
    M, (W, _) = dense(A), parts(G)
    covariance = torch.linalg.inv(P) + W @ W.T
    information = torch.linalg.inv(covariance) + M.T @ M / SIGMA**2
    variance = torch.linalg.inv(information).diagonal()
    squares = ((found.x[:, :, 0].flatten(2) - mean[:20]).square() / variance).mean(0)
    assert bool(((squares.mean(0) - 1).abs() < 4.5 * squares.std(0) / 80**0.5).all())


def test_bad_input(G, X):
    for space in (odl.rn((4, 5)), odl.uniform_discr([0, 0], [8, 5], (4, 5), dtype="float32")):
        with pytest.raises(
            ValueError, match=r"beta must be a precision on the range of G, uniform_discr.* got one on"
        ):
            JointPrior(G, IsotropicPrecision(space, 1.0))
    batched = DenseCholeskyPrecision(X, torch.eye(20).repeat(3, 1, 1))
    with pytest.raises(ValueError, match="beta must be a precision that is not batched, got a batch of 3"):
        JointPrior(G, batched)
    assert JointPrior(G, batched.take(0)).structured
    with pytest.raises(
        ValueError, match=r"beta must be a number or have the shape \(B,\), got shape \(20, 20\)"
    ):
        JointPrior(G, torch.eye(20).numpy())
