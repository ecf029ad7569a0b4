"""Exact posteriors, what they say about a prior, expectation maximisation: against dense formulas."""

import itertools
import math

import odl
import pytest
import torch
from torch.distributions import MultivariateNormal

from genreg import GaussianFidelity, NetworkOperator, PoissonFidelity
from genreg.empirical_bayes import (
    EMStatus,
    ExactPosterior,
    GaussianGraphicalModel,
    GraphicalLasso,
    expectation_maximisation,
)
from genreg.empirical_bayes.graphs.sufficient_statistics import Statistics
from genreg.operators import fourier_sampling, gaussian_measurements

from .test_empirical_bayes import DENSE, Identity, chain, gaussian, images, matrix_of, mixture, noisy

X = odl.rn(3)


def real(y):
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


def observations(kind, n=4):
    """A fidelity, and the variances of its real data, ``(n, m)``."""
    space = images()
    if kind == "complex":
        A = fourier_sampling(space, torch.tensor([[True, False, True], [False, True, False]]))
        y = torch.complex(gaussian(n, 3), gaussian(n, 3, seed=1))
        return GaussianFidelity(A, y, 0.4), torch.full((n, 6), 0.16, dtype=torch.float64)
    m = 9 if kind == "many" else 4
    A = gaussian_measurements(space, m, seed=0)
    sigma = {
        "per observation": torch.linspace(0.2, 0.8, n, dtype=torch.float64),
        "per datum": torch.linspace(0.2, 0.8, m, dtype=torch.float64)[None],
        "masks": 0.3 + gaussian(n, m, seed=3).abs(),
    }.get(kind, torch.tensor(0.3, dtype=torch.float64))
    if kind in ("masks", "per datum"):
        sigma = torch.where(gaussian(*sigma.shape, seed=4) > 0.3, math.inf, sigma)
    wide = sigma[:, None] if sigma.ndim == 1 else sigma
    return GaussianFidelity(A, gaussian(n, m), sigma), wide.square().expand(n, m)


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("kind", ["few", "many", "per observation", "per datum", "masks", "complex"])
def test_the_posterior_is_that_of_dense_formulas(kind, components):
    fidelity, variance = observations(kind)
    prior = mixture(images(), components)
    posterior = ExactPosterior(fidelity, prior)
    M, y, covariances = matrix_of(fidelity.operator), real(fidelity.data), torch.linalg.inv(prior.matrices)
    responsibilities, evidence, means, within = [], [], [], []
    for k in range(len(y)):
        on = variance[k].isfinite()
        R, noise = M[on], torch.diag(variance[k][on])
        data = MultivariateNormal(prior.means @ R.T, R @ covariances @ R.T + noise)
        joint = prior.weights.log() + data.log_prob(y[k][on])
        evidence.append(joint.logsumexp(0))
        responsibilities.append(joint.softmax(0))
        gain = covariances @ R.T @ torch.linalg.inv(R @ covariances @ R.T + noise)
        means.append(prior.means + (gain @ (y[k][on] - prior.means @ R.T)[..., None])[..., 0])
        within.append(covariances - gain @ R @ covariances)
    responsibilities, evidence, means, within = map(torch.stack, (responsibilities, evidence, means, within))
    torch.testing.assert_close(posterior.log_evidence, evidence)
    torch.testing.assert_close(posterior.responsibilities, responsibilities)
    torch.testing.assert_close(posterior.component_means, means)
    mean = torch.einsum("nk,nkp->np", responsibilities, means)
    second = torch.einsum("nk,nkpq->npq", responsibilities, within + means[..., None] * means[..., None, :])
    covariance = second - mean[:, :, None] * mean[:, None, :]
    torch.testing.assert_close(posterior.mean, mean.unflatten(1, (2, 3)))
    torch.testing.assert_close(posterior.covariance.expand(4, 6, 6), covariance)
    torch.testing.assert_close(posterior.std.flatten(1), covariance.diagonal(dim1=1, dim2=2).sqrt())
    statistics = posterior.statistics()
    torch.testing.assert_close(statistics.weight, responsibilities.mean(0))
    torch.testing.assert_close(statistics.first.sum(0), mean.mean(0))
    torch.testing.assert_close(statistics.second.sum(0), second.mean(0))
    draws = posterior.sample(1500, seed=0)
    assert draws.shape == (1500, 4, 2, 3)
    error = (draws.mean(0) - posterior.mean) / (posterior.std / math.sqrt(1500))
    assert float(error.abs().max()) < 4.5
    torch.testing.assert_close(draws.std(0), posterior.std, rtol=0.1, atol=0)
    assert torch.equal(draws, posterior.sample(1500, seed=0))


def test_single_precision_data():
    space = odl.uniform_discr([0, 0], [4, 3], (2, 3), dtype="float32")
    prior = GaussianGraphicalModel(space)
    A = gaussian_measurements(space, 4, seed=0)
    posterior = ExactPosterior(GaussianFidelity(A, gaussian(2, 4).float(), 0.1), prior)
    assert posterior.mean.dtype == torch.float32 and posterior.log_evidence.dtype == torch.float64
    assert posterior.covariance.shape == (6, 6) and posterior.sample(3, seed=0).dtype == torch.float32


def square(space):
    return NetworkOperator(torch.nn.Tanh(), space, space)


@pytest.mark.parametrize(
    ("fidelity", "prior", "error", "message"),
    [
        (lambda: GaussianFidelity(square(X), gaussian(3), 1.0), X, ValueError, "A must be linear"),
        (
            lambda: PoissonFidelity(Identity(X, X), gaussian(3).abs()),
            X,
            TypeError,
            "must be a GaussianFidelity",
        ),
        (
            lambda: GaussianFidelity(Identity(X, X), gaussian(3), 1.0),
            odl.rn(4),
            ValueError,
            "A must act on the space",
        ),
        (
            lambda: GaussianFidelity(Identity(X, X), gaussian(3), 1.0),
            None,
            TypeError,
            "prior must be a Gaussian",
        ),
    ],
)
def test_posteriors_without_a_closed_form(fidelity, prior, error, message):
    prior = prior and GaussianGraphicalModel(prior)
    for act in (ExactPosterior, expectation_maximisation):
        with pytest.raises(error, match=message):
            act(fidelity(), prior)


def test_statistics_of_draws_and_of_gaussians():
    z = gaussian(50, 6, 3)
    r = gaussian(50, 6, 2, seed=1).softmax(-1)
    found = Statistics.of_draws(z, r)
    torch.testing.assert_close(found.weight, r.mean((0, 1)))
    for k in range(2):
        each = [torch.outer(z[s, i], z[s, i]) * r[s, i, k] for s in range(50) for i in range(6)]
        torch.testing.assert_close(found.second[k], torch.stack(each).mean(0))
        torch.testing.assert_close(found.first[k], (z * r[..., k : k + 1]).mean((0, 1)))
        share = r[..., k].mean(0)
        means = (z * r[..., k : k + 1]).mean(0) / share[:, None]
        torch.testing.assert_close(found.explained[k], (means.T * share) @ means / 6)
        torch.testing.assert_close(found.certain[k], share.square().mean())
    one = Statistics.of_draws(z, torch.ones(50, 6, 1))
    means, deviations = z.mean(0), z - z.mean(0)
    covariances = torch.einsum("snp,snq->npq", deviations, deviations)[:, None] / 50
    for a, b in zip(one, Statistics.of_gaussians(torch.ones(6, 1), means[:, None], covariances), strict=True):
        torch.testing.assert_close(a, b)
    for a, b, c in zip(found.lerp(found, 0.3), found, found.lerp(one_like(found), 0.25), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(c, 0.75 * b + 0.25)


def one_like(statistics):
    return Statistics(*map(torch.ones_like, statistics))


def test_statistics_of_mixtures_by_monte_carlo():
    fidelity, _ = observations("few")
    prior = mixture(images(), 2)
    posterior = ExactPosterior(fidelity, prior)
    z = posterior.sample(10_000, seed=0)
    sampled = Statistics.of_draws(z.flatten(2), prior.log_probs(z).softmax(-1))
    for name, a, b in zip(Statistics._fields, sampled, posterior.statistics(), strict=True):
        assert float((a - b).abs().max()) < 0.03 * float(b.abs().max().clamp_min(1)), name


def test_moments_and_worth():
    z = gaussian(200, 3)
    complete = Statistics.of_draws(z[None], torch.ones(1, 200, 1))
    means = z.mean(0, keepdim=True)
    second, explained = complete.moments(means)
    torch.testing.assert_close(second[0], torch.cov(z.T, correction=0))
    torch.testing.assert_close(explained, second)
    assert float(complete.worth(200, second, explained)) == pytest.approx(200)
    # z of variance v, y = z + noise: posterior means v y / (v + s), variances v s / (v + s)
    v, s, n = 2.0, 0.5, 5000
    y = gaussian(n, 1)
    y = y / y.square().mean().sqrt() * math.sqrt(v + s)
    rho = v / (v + s)
    scalar = Statistics.of_gaussians(
        torch.ones(n, 1), (rho * y)[:, None], torch.full((1, 1, 1, 1), rho * s, dtype=torch.float64)
    )
    second, explained = scalar.moments(torch.zeros(1, 1, dtype=torch.float64))
    assert float(second) == pytest.approx(v)
    assert float(scalar.worth(n, second, explained)) == pytest.approx(n * rho**2)


@pytest.mark.parametrize("components", [1, 2])
def test_the_evidence_never_falls_with_dense_precisions(components):
    space = images()
    truth = mixture(space, components)
    fidelity = noisy(truth, 300, 0.3, gaussian_measurements(space, 5, seed=0))
    prior = GaussianGraphicalModel(space, components, mean="learned", estimator=DENSE)
    result = expectation_maximisation(fidelity, prior, max_iter=15, tol=1e-12, progress=False)
    evidence = [entry["log_evidence"] for entry in result.history]
    assert result.prior is prior and result.status == EMStatus.MAX_ITER and len(evidence) == 15
    assert all(b > a - 1e-9 for a, b in itertools.pairwise(evidence))
    truth_evidence = float(ExactPosterior(fidelity, truth).log_evidence.mean())
    assert evidence[-1] > max(truth_evidence, evidence[0])


@pytest.mark.parametrize("components", [1, 2])
def test_the_evidence_falls_by_no_more_than_the_edges_that_are_dropped_are_worth(components):
    space = images()
    fidelity = noisy(mixture(space, components), 300, 0.3, gaussian_measurements(space, 5, seed=0))
    prior = GaussianGraphicalModel(space, components, mean="learned")
    result = expectation_maximisation(fidelity, prior, max_iter=12, tol=1e-12, dense=3, progress=False)
    turns = list(itertools.pairwise(result.history))
    gains = [b["log_evidence"] - a["log_evidence"] for a, b in turns]
    assert all(gain > -a["dropped"] - 1e-8 for gain, (a, _) in zip(gains, turns, strict=True))
    assert any(a["dropped"] > 0 for a, _ in turns) and any(a["lam"] > 0 == a["dropped"] for a, _ in turns)


@pytest.mark.parametrize(("components", "dtype"), [(1, "float32"), (2, "float64")])
@pytest.mark.parametrize("s", [1e-6, 1e6])
def test_units_do_not_matter(s, components, dtype):
    """Observations, noise and the prior at the start in other units: the same graph, weights and evidence."""
    space = images(dtype)
    truth = mixture(images(), components)
    A = gaussian_measurements(space, 5, seed=0)
    y = noisy(truth, 200, 0.3, gaussian_measurements(images(), 5, seed=0)).data.to(getattr(torch, dtype))

    def learned(scale):
        start = mixture(images(), components)
        prior = GaussianGraphicalModel(
            space,
            components,
            mean="learned",
            precision=start.matrices / scale**2,
            means=start.means * scale,
        )
        fidelity = GaussianFidelity(A, scale * y, 0.3 * scale)
        result = expectation_maximisation(fidelity, prior, max_iter=4, dense=2, progress=False)
        return result, prior, ExactPosterior(fidelity, prior)

    (one, prior, posterior), (result, other, scaled) = learned(1.0), learned(s)
    rtol = 1e-3 if dtype == "float32" else 1e-6
    assert result.status == one.status and len(result.history) == len(one.history)
    for a, b in zip(one.history, result.history, strict=True):
        assert a["edges"] == b["edges"] and b["lam"] == pytest.approx(a["lam"], rel=rtol)
        assert b["log_evidence"] == pytest.approx(a["log_evidence"] - 5 * math.log(s), rel=rtol)
    torch.testing.assert_close(other.weights, prior.weights, rtol=rtol, atol=0)
    torch.testing.assert_close(other.matrices * s**2, prior.matrices, rtol=rtol, atol=rtol)
    torch.testing.assert_close(scaled.mean / s, posterior.mean, rtol=rtol, atol=rtol)
    torch.testing.assert_close(scaled.std / s, posterior.std, rtol=rtol, atol=0)


def test_few_worthy_observations_of_a_dense_precision():
    space = images()
    fidelity = noisy(mixture(space, 1), 20, 3.0, gaussian_measurements(space, 2, seed=0))
    prior = GaussianGraphicalModel(space, estimator=DENSE)
    result = expectation_maximisation(fidelity, prior, max_iter=3, dense=0, progress=False)
    assert result.history[2]["log_evidence"] > result.history[0]["log_evidence"]


@pytest.mark.parametrize("mean", ["zero", "learned"])
def test_complete_observations_give_the_sparse_precision_of_the_data(mean):
    space = odl.rn(6)
    z = GaussianGraphicalModel(space, precision=chain(6)).sample(500, seed=0)
    fidelity = GaussianFidelity(Identity(space, space), z, 1e-5)
    prior = GaussianGraphicalModel(space, mean=mean)
    result = expectation_maximisation(fidelity, prior, progress=False)
    centre = z.mean(0) if mean == "learned" else torch.zeros(6)
    S = (z - centre).T @ (z - centre) / 500
    expected = GraphicalLasso()(S, 500)
    assert result.status == EMStatus.CONVERGED and "evidence" in result.status.advice
    torch.testing.assert_close(prior.matrices[0], expected.matrix, rtol=1e-3, atol=1e-6)
    assert result.history[-1]["edges"] == expected.edges
    assert result.history[-1]["lam"] == pytest.approx(expected.lam)


def test_a_chain_is_found_in_noisy_observations():
    space = odl.rn(8)
    truth = GaussianGraphicalModel(space, precision=chain(8))
    prior = GaussianGraphicalModel(space)
    result = expectation_maximisation(noisy(truth, 4000, 0.3, seed=10), prior, progress=False)
    assert result.status == EMStatus.CONVERGED
    assert torch.equal(prior.edges(), truth.edges())
    assert float((prior.matrices - truth.matrices).abs().max()) < 0.15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_iter": 0}, "max_iter must be a positive integer, got 0"),
        ({"tol": float("inf")}, "tol must be positive and finite"),
        ({"tol": 0.0}, "tol must be positive and finite"),
        ({"dense": -1}, "dense must be a non-negative integer"),
    ],
)
def test_bad_numbers(change, message):
    fidelity = GaussianFidelity(Identity(X, X), gaussian(5, 3), 1.0)
    with pytest.raises(ValueError, match=message):
        expectation_maximisation(fidelity, GaussianGraphicalModel(X), progress=False, **change)
    with pytest.raises(ValueError, match="fewer observations than unknowns"):
        expectation_maximisation(
            GaussianFidelity(Identity(X, X), gaussian(2, 3), 1.0), GaussianGraphicalModel(X, estimator=DENSE)
        )


def test_it_does_not_end_with_the_first_graph():
    """Fewer data than unknowns: without a graph the evidence soon settles, but the graph has only begun."""
    generator = torch.Generator().manual_seed(1)
    p, m, n = 8, 6, 3000
    tie = torch.full((p - 1,), -0.45, dtype=torch.float64)
    matrix = torch.eye(p, dtype=torch.float64) + torch.diag(tie, 1) + torch.diag(tie, -1)
    Z = odl.rn(p)
    z = GaussianGraphicalModel(Z, precision=matrix).sample(n, seed=0)
    A = torch.randn(m, p, generator=generator, dtype=torch.float64)
    y = z @ A.T + 0.1 * torch.randn(n, m, generator=generator, dtype=torch.float64)
    operator = odl.MatrixOperator(A.numpy(), domain=Z, range=odl.rn(m))
    prior = GaussianGraphicalModel(Z)
    found = expectation_maximisation(GaussianFidelity(operator, y, 0.1), prior, tol=1e-4, progress=False)
    with_graph = [entry["log_evidence"] for entry in found.history if entry["lam"] > 0]
    assert found.status == EMStatus.CONVERGED and found.history[0]["lam"] == 0
    assert len(with_graph) > 3 and abs(with_graph[-1] - with_graph[-2]) <= 1e-4
