"""Empirical Bayes by encoders: against exact evidence, expectation maximisation and closed forms; runs; bad input."""

import math

import odl
import pytest
import torch
from torch.distributions import Independent, Normal

from genreg import GaussianFidelity, NetworkOperator, PoissonFidelity, to_torch
from genreg.empirical_bayes import (
    DistributionPrior,
    ExactPosterior,
    FullCovariance,
    GaussianGraphicalModel,
    InverseAutoregressive,
    MeanField,
    expectation_maximisation,
    fit,
)
from genreg.empirical_bayes.fitting import EmpiricalBayesTrainer
from genreg.operators import fourier_sampling, gaussian_measurements

from .test_empirical_bayes import DENSE, Identity, chain, gaussian, noisy

QUIET = {"progress": False, "dense": 0}
LINEAR = FullCovariance(hidden=())
SMALL_FLOW = InverseAutoregressive(hidden=(8,), transforms=2, flow_hidden=(8,))


class Independents(torch.nn.Module):
    """Independent normal entries."""

    def __init__(self, p):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(p))
        self.log_std = torch.nn.Parameter(torch.zeros(p))

    def forward(self):
        return Independent(Normal(self.mean, self.log_std.exp()), 1)


def evidence(fidelity, prior):
    return float(ExactPosterior(fidelity, prior).log_evidence.mean())


def problem(kind, n=200):
    """Observations of a chain, of five entries or an image."""
    image = odl.uniform_discr([0, 0], [4, 3], (2, 3))
    if kind == "complex":
        A = fourier_sampling(image, torch.tensor([[True, False, True], [False, True, False]]))
        y = to_torch(A)(GaussianGraphicalModel(image, precision=chain(6)).sample(n, seed=1))
        return GaussianFidelity(A, y + 0.3 * torch.complex(gaussian(n, 3), gaussian(n, 3, seed=1)), 0.3)
    space = image if kind == "images" else odl.rn(5)
    A = gaussian_measurements(space, {"few": 3}.get(kind, 7), seed=0)
    prior = GaussianGraphicalModel(space, precision=chain(space.size))
    y = to_torch(A)(prior.sample(n, seed=1))
    sigma = torch.tensor(0.3, dtype=torch.float64)
    if kind == "masks":  # two patterns, in turns
        sigma = sigma.expand(n, 7).clone()
        sigma[::2, :3], sigma[1::2, 4:] = math.inf, math.inf
    return GaussianFidelity(A, y + 0.3 * gaussian(*y.shape, seed=2), sigma)


def perturbed(monkeypatch, config):
    """Let encoders of this kind begin far from the posterior."""
    build = config.build

    def built(self, affine, inputs):
        network = build(self, affine, inputs)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return network

    monkeypatch.setattr(config, "build", built)


@pytest.mark.parametrize("kind", ["few", "complex"])
def test_the_bound_reaches_the_evidence(kind, monkeypatch):
    fidelity = problem(kind)
    perturbed(monkeypatch, FullCovariance)
    monkeypatch.setattr(EmpiricalBayesTrainer, "consolidate", lambda run: None)
    prior = GaussianGraphicalModel(fidelity.domain, precision=chain(fidelity.domain.size))
    matrix = prior.matrices.clone()
    result = fit(fidelity, prior, LINEAR, steps=100, n_critic=1000, lr=0.05, batch_size=200, **QUIET)
    assert torch.equal(matrix, prior.matrices)
    exact = ExactPosterior(fidelity, prior)
    gap = (exact.log_evidence - result.elbo(fidelity, draws=20)).mean()
    assert float(gap) == pytest.approx(0, abs=1e-3)
    found = result.infer(fidelity)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(found.std, exact.std, rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["many", "few", "complex"])
def test_it_agrees_with_expectation_maximisation(kind):
    fidelity = problem(kind)
    estimator = None if kind == "many" else DENSE
    prior, other = (GaussianGraphicalModel(fidelity.domain, estimator=estimator) for _ in range(2))
    result = fit(fidelity, prior, LINEAR, steps=80, n_critic=10, lr=0.02, batch_size=200, draws=2, **QUIET)
    expectation_maximisation(fidelity, other, dense=0, progress=False)
    bound = float(result.elbo(fidelity).mean())
    assert bound == pytest.approx(evidence(fidelity, prior), abs=1e-3)
    assert bound == pytest.approx(evidence(fidelity, other), abs=1e-3)
    if kind == "many":  # elsewhere the precision is not determined
        assert torch.equal(prior.edges(), other.edges())
        torch.testing.assert_close(prior.matrices, other.matrices, rtol=0, atol=0.01)
        exact = ExactPosterior(fidelity, other).mean
        torch.testing.assert_close(result.infer(fidelity).mean, exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("amortised", [False, True])
def test_noise_of_each_observation(amortised):
    fidelity = problem("masks")
    prior = GaussianGraphicalModel(fidelity.domain, estimator=DENSE)
    encoder = FullCovariance(hidden=(16,), amortised=amortised)
    steps = 100 if amortised else 40
    result = fit(
        fidelity, prior, encoder, steps=steps, n_critic=20, lr=0.05, batch_size=200, draws=2, **QUIET
    )
    gap = evidence(fidelity, prior) - float(result.elbo(fidelity, draws=100).mean())
    assert (0 < gap < 0.05) if amortised else gap > 0.05
    tighter = result.elbo(fidelity, draws=100, importance=True)
    assert bool((tighter >= result.elbo(fidelity, draws=100)).all())
    assert float(tighter.mean()) == pytest.approx(evidence(fidelity, prior), abs=0.05)

    few = fidelity.take(torch.arange(5))
    together, bounds = result.infer(few), result.elbo(few, draws=2000)
    for k in range(2):
        alone = result.infer(few.take(torch.tensor([k])))
        torch.testing.assert_close(alone.mean[0], together.mean[k])
        torch.testing.assert_close(alone.std[0], together.std[k])
        bound = result.elbo(few.take(torch.tensor([k])), draws=2000)
        assert float(bound) == pytest.approx(float(bounds[k]), abs=0.1)


def test_a_distribution_of_independent_normals():
    space, sigma, n = odl.rn(3), 0.5, 300
    truth = torch.tensor([[1.0, 0.0, -2.0], [1.0, 0.7, 1.5]], dtype=torch.float64)
    y = truth[0] + truth[1] * gaussian(n, 3, seed=1) + sigma * gaussian(n, 3, seed=2)
    fidelity = GaussianFidelity(Identity(space, space), y, sigma)
    prior = DistributionPrior(space, Independents(3), lr=0.05, steps=5)
    result = fit(fidelity, prior, LINEAR, steps=200, n_critic=5, batch_size=300, draws=2, lr=0.02, **QUIET)
    mean, variance = y.mean(0), y.var(0, correction=0) - sigma**2  # the most likely ones
    torch.testing.assert_close(prior.model.mean.detach(), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(prior.model.log_std.detach().exp(), variance.sqrt(), rtol=0, atol=0.05)
    likely = Independent(Normal(mean, (variance + sigma**2).sqrt()), 1).log_prob(y).mean()
    assert float(result.elbo(fidelity).mean()) == pytest.approx(float(likely), abs=5e-3)
    moments = prior.moments()
    torch.testing.assert_close(moments[1].diagonal(), variance, rtol=0.3, atol=0)
    assert torch.equal(prior.sample(4, seed=3), prior.sample(4, seed=3))


def test_a_flow_as_prior():
    from zuko.flows import MAF

    fidelity = problem("few", n=50)
    torch.manual_seed(0)
    prior = DistributionPrior(fidelity.domain, MAF(5, transforms=1, hidden_features=(8,)))
    settings = {"steps": 60, "n_critic": 3, "batch_size": 50} | QUIET
    result = fit(fidelity, prior, LINEAR, validation=fidelity, validate_every=20, **settings)
    bounds = [entry["elbo"] for entry in result.card["history"]]
    assert len(bounds) == 3 and bounds[2] > bounds[0] and "prior_loss" in result.card["history"][0]
    assert result.card["score"]["elbo"] > bounds[0]
    assert prior.log_prob(prior.sample(7, seed=0)).shape == (7,)


def two_clusters(n=600):
    """Scalar noise on a mixture in the plane, with what is known of its parameters if z were known."""
    space = odl.rn(2)
    means = torch.tensor([[-2.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    precision = torch.tensor([[4.0, 4.0], [2.0, 6.0]], dtype=torch.float64).diag_embed()
    truth = GaussianGraphicalModel(
        space, 2, mean="learned", precision=precision, means=means, weights=torch.tensor([0.3, 0.7])
    )
    return truth, noisy(truth, n, 0.3)


def check_clusters(prior, truth, n):
    order = prior.means[:, 0].argsort()
    error = (truth.weights.prod() / n).sqrt()
    assert float((prior.weights[order] - truth.weights).abs().max()) < 4 * float(error)
    variance = torch.linalg.inv(truth.matrices).diagonal(dim1=1, dim2=2) + 0.09
    standard = (variance / (n * truth.weights[:, None])).sqrt()
    assert float(((prior.means[order] - truth.means) / standard).abs().max()) < 4
    found = torch.linalg.inv(prior.matrices[order]).diagonal(dim1=1, dim2=2)
    assert float(((found + 0.09) / variance).log().abs().max()) < 4 * math.sqrt(2 / (0.3 * n))


def test_mixtures_are_recovered():
    truth, fidelity = two_clusters()
    other = GaussianGraphicalModel(truth.space, 2, mean="learned")
    result = expectation_maximisation(fidelity, other, dense=3, max_iter=40, progress=False)
    check_clusters(other, truth, 600)
    assert result.history[-1]["edges"] == 0
    prior = GaussianGraphicalModel(truth.space, 2, mean="learned")
    encoder = InverseAutoregressive(hidden=(16,), transforms=2, flow_hidden=(16,))
    fitted = fit(fidelity, prior, encoder, steps=120, n_critic=20, batch_size=200, lr=0.02, **QUIET)
    check_clusters(prior, truth, 600)
    assert evidence(fidelity, prior) == pytest.approx(evidence(fidelity, other), abs=5e-3)
    gap = evidence(fidelity, prior) - fitted.elbo(fidelity).mean()
    assert -1e-3 < float(gap) < 0.05
    exact, found = ExactPosterior(fidelity, prior), fitted.infer(fidelity, draws=400)
    assert float((found.mean - exact.mean).square().mean().sqrt()) < 0.06


class Rates(torch.nn.Module):
    """z -> exp(z / 2 + 2)."""

    def forward(self, z):
        return torch.exp(z / 2 + 2)


@pytest.mark.parametrize(
    "encoder", [MeanField(hidden=(16,), amortised=True), SMALL_FLOW], ids=["mean field", "flow"]
)
def test_counts(encoder):
    space = odl.rn(3)
    A = NetworkOperator(Rates(), space, space)
    z = GaussianGraphicalModel(space, precision=chain(3)).sample(200, seed=1)
    counts = torch.poisson(to_torch(A)(z), generator=torch.Generator().manual_seed(2))
    fidelity = PoissonFidelity(A, counts)
    result = fit(
        fidelity,
        GaussianGraphicalModel(space, precision=0.3 * chain(3)),
        encoder,
        validation=fidelity,
        validate_every=20,
        steps=60,
        n_critic=20,
        batch_size=100,
        lr=0.01,
        **QUIET,
    )
    bounds = [entry["elbo"] for entry in result.card["history"]]
    assert bounds == sorted(bounds)
    error = (result.infer(fidelity).mean - z).square().mean()
    assert float(error) < 0.35 * float(z.square().mean())
