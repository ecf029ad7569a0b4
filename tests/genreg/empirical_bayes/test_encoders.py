"""Scores and curvatures by automatic differentiation, densities of posteriors, encoders before any training."""

import math

import odl
import pytest
import torch
from torch.distributions import MultivariateNormal

from genreg import GaussianFidelity, NetworkOperator, PoissonFidelity, to_torch
from genreg.empirical_bayes import (
    ExactPosterior,
    FullCovariance,
    GaussianGraphicalModel,
    InverseAutoregressive,
    MeanField,
)
from genreg.empirical_bayes.encoders.coordinates import Affine, coordinates, encoder_inputs
from genreg.empirical_bayes.encoders.densities import standard_draws
from genreg.empirical_bayes.encoders.linearised import Linearised, is_sufficient, real_data
from genreg.empirical_bayes.result import evidence_terms
from genreg.operators import fourier_sampling, gaussian_measurements

from ...draws import gaussian
from ...refusals import refuses

SMALL = {"hidden": (6,)}
FLOW = {"hidden": (6,), "transforms": 2, "flow_hidden": (8,)}
CONFIGS = [
    MeanField(**SMALL),
    MeanField(**SMALL, amortised=True),
    FullCovariance(hidden=()),
    FullCovariance(**SMALL, amortised=True),
    FullCovariance(hidden=(), amortised=True),
    InverseAutoregressive(**FLOW),
    InverseAutoregressive(**FLOW, amortised=True, bins=4),
]
NAMES = [
    "mean field",
    "mean field for each",
    "full",
    "full for each",
    "full, linear",
    "affine flow",
    "splines",
]


def positive(p, seed=0):
    root = gaussian(p, p, seed=seed)
    return root @ root.T / p + 0.5 * torch.eye(p, dtype=torch.float64)


class Exponential(torch.nn.Module):
    """z -> exp(M z), positive and not linear."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", 0.4 * gaussian(5, 6, seed=8))

    def forward(self, z):
        return torch.exp(z.flatten(-2) @ self.matrix.T)


X = odl.uniform_discr([0, 0], [4, 3], (2, 3))  # cells of 2 by 1


def fidelities():
    linear, curved = gaussian_measurements(X, 5, seed=0), NetworkOperator(Exponential(), X, odl.rn(5))
    fourier = fourier_sampling(X, torch.tensor([[True, False, True], [False, True, False]]))
    y, counts = gaussian(3, 5), gaussian(3, 5).abs().mul(4).round()
    masks = torch.where(gaussian(3, 5, seed=2) > 0, math.inf, 0.5)
    return {
        "linear": GaussianFidelity(linear, y, 0.3),
        "noise per observation": GaussianFidelity(linear, y, torch.tensor([0.3, 0.5, 0.7])),
        "masks": GaussianFidelity(linear, y, masks),
        "complex": GaussianFidelity(fourier, torch.complex(gaussian(3, 3), gaussian(3, 3, seed=1)), 0.3),
        "complex zero": GaussianFidelity(fourier, torch.zeros(3, 3, dtype=torch.complex128), 0.3),
        "curved": GaussianFidelity(curved, y, 0.3),
        "emission": PoissonFidelity(curved, counts, background=0.5),
        "transmission": PoissonFidelity(linear, counts, intensity=6.0, background=0.5),
    }


@pytest.mark.parametrize("kind", fidelities())
def test_scores_and_curvatures_by_automatic_differentiation(kind):
    fidelity = fidelities()[kind]
    z = torch.zeros(2, 3, dtype=torch.float64) if kind == "complex zero" else 0.3 * gaussian(2, 3, seed=4)
    found = Linearised(fidelity.operator, z)
    value = to_torch(fidelity)
    each = torch.func.jacrev(lambda t: value(t.expand(3, 2, 3)))(z).flatten(1)
    torch.testing.assert_close(found.scores(fidelity), -each)

    forward = to_torch(fidelity.operator)

    def real(t):
        out = forward(t[None])
        return (torch.view_as_real(out) if out.is_complex() else out).flatten()

    jacobian = torch.func.jacfwd(real)(z).flatten(1)
    torch.testing.assert_close(found.jacobian, jacobian)

    def misfit(v):
        at = v.unflatten(0, (-1, 2)) if forward(z[None]).is_complex() else v
        at = torch.view_as_complex(at) if at.ndim == 2 else at
        return fidelity.misfit(at.expand(fidelity.data.shape), **fidelity.per_sample).mean()

    if kind == "complex zero":  # where |.| has no derivative
        hessian = torch.eye(6, dtype=torch.float64) / 0.09
    else:
        hessian = torch.func.hessian(misfit)(real(z))
    torch.testing.assert_close(found.curvature(fidelity), jacobian.T @ hessian @ jacobian)


@pytest.mark.parametrize("kind", ["linear", "masks", "complex"])
def test_scores_and_curvatures_of_linear_observations(kind):
    fidelity = fidelities()[kind]
    z = gaussian(2, 3, seed=4)
    found = Linearised(fidelity.operator, z)
    J, data = found.jacobian, fidelity.data
    sigma = fidelity.noise_std if fidelity.noise_std.ndim > 1 else fidelity.noise_std[:, None]
    W = (1 / sigma.square()).expand(data.shape)
    W = W.repeat_interleave(2, 1) if data.is_complex() else W
    residual = real_data(data) - z.flatten() @ J.T
    torch.testing.assert_close(found.scores(fidelity), (W * residual) @ J)
    torch.testing.assert_close(found.curvature(fidelity), (J.T * W.mean(0)) @ J)
    assert is_sufficient(fidelity) == (kind != "masks")


def made(config, p=3, n=4, seed=0):
    """An encoder with random parameters and coordinates, and inputs for it."""
    affine = Affine(gaussian(p), torch.linalg.cholesky(positive(p)).T)
    inputs = gaussian(n, p + 2, seed=seed)
    torch.manual_seed(seed)
    encoder = config.build(affine, inputs)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder, inputs


@pytest.mark.parametrize("count", [1, 4, 5])
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_the_density_of_draws(config, count):
    encoder, inputs = made(config)
    posterior = encoder(inputs)
    torch.manual_seed(1)
    z, log_q = posterior.draw(count)
    assert z.shape == (count, 4, 3) and log_q.shape == (count, 4) and z.requires_grad
    if posterior.gaussian is not None:
        mean, covariance = posterior.gaussian
        torch.testing.assert_close(log_q, MultivariateNormal(mean, covariance).log_prob(z))
        return
    torch.manual_seed(1)
    noise = standard_draws(count, inputs[:, :3])

    def push(e):  # the noise, all of which the draws depend on, by hand
        t = posterior.transform(e)
        u = posterior.mean + (posterior.factor @ t[..., None])[..., 0]
        return posterior.affine(u)

    torch.testing.assert_close(push(noise), z)
    jacobian = torch.autograd.functional.jacobian(push, noise)
    for s in range(count):
        for i in range(4):
            exact = torch.linalg.slogdet(jacobian[s, i, :, s, i]).logabsdet
            normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise[s, i]).sum()
            torch.testing.assert_close(log_q[s, i], normal - exact)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("p", [1, 2])
def test_densities_integrate_to_one(config, p):
    encoder, inputs = made(config, p=p, n=2)
    with torch.no_grad():
        z, log_q = encoder(inputs).draw(20_000)
        mean, covariance = z.mean(0), torch.stack([torch.cov(z[:, i].T).reshape(p, p) for i in range(2)])
        proposal = MultivariateNormal(mean, 0.3 * covariance)  # lighter tails: bounded ratios
        ratio = (proposal.log_prob(z) - log_q).exp()  # with the mean ∫ proposal = 1
    torch.testing.assert_close(ratio.mean(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.05)


def test_draws_come_in_pairs_of_opposites():
    draws = standard_draws(5, gaussian(2, 3))
    assert torch.equal(draws[:2], -draws[3:]) and draws.shape == (5, 2, 3)


def problem(kind="linear"):
    prior = GaussianGraphicalModel(X, mean="learned", means=gaussian(1, 6), precision=positive(6, seed=3))
    fidelity = fidelities()[kind]
    affine, seen = coordinates(fidelity, prior)
    return (
        prior,
        fidelity,
        affine,
        encoder_inputs(fidelity, affine, seen, scores_only=is_sufficient(fidelity)),
    )


@pytest.mark.parametrize("kind", ["linear", "complex"])
def test_an_encoder_begins_as_the_posterior(kind):
    prior, fidelity, affine, inputs = problem(kind)
    exact = ExactPosterior(fidelity, prior)
    for config in (FullCovariance(**SMALL), FullCovariance(**SMALL, amortised=True)):
        mean, covariance = config.build(affine, inputs)(inputs).gaussian
        torch.testing.assert_close(mean, exact.mean.flatten(1))
        torch.testing.assert_close(covariance.expand(3, 6, 6), exact.covariance.expand(3, 6, 6))
    mean, covariance = MeanField(**SMALL).build(affine, inputs)(inputs).gaussian
    torch.testing.assert_close(mean, exact.mean.flatten(1))
    precision = torch.linalg.inv(exact.covariance)
    torch.testing.assert_close(covariance, torch.diag(1 / precision.diagonal()))
    for bins in (0, 4):
        flow = InverseAutoregressive(**FLOW, bins=bins).build(affine, inputs)
        torch.manual_seed(1)
        z, log_q = flow(inputs).draw(3)
        law = MultivariateNormal(exact.mean.flatten(1), exact.covariance)
        torch.testing.assert_close(log_q, law.log_prob(z))


@pytest.mark.parametrize("amortised", [False, True])
def test_the_bound_has_no_gradient_at_the_posterior_for_any_draw(amortised):
    prior, fidelity, affine, inputs = problem()
    encoder = FullCovariance(**SMALL, amortised=amortised).build(affine, inputs)
    for draws in (1, 3):
        z, terms = evidence_terms(encoder(inputs), prior, fidelity, draws)
        evidence = ExactPosterior(fidelity, prior).log_evidence
        torch.testing.assert_close(terms, evidence.expand(draws, 3))  # not in the mean: each
        gradients = torch.autograd.grad(terms.mean(), list(encoder.parameters()), materialize_grads=True)
        assert max(float(g.abs().max()) for g in gradients) < 1e-10 and z.requires_grad


def test_gradients_of_the_bound_are_those_of_its_mean():
    """Away from the posterior: the path-wise gradient is that of the closed form in the mean."""
    prior, fidelity, affine, inputs = problem()
    encoder = FullCovariance(hidden=()).build(affine, inputs)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    exact = ExactPosterior(fidelity, prior)
    posterior = encoder(inputs)
    F = affine.basis @ posterior.factor
    mean, precision = affine(posterior.mean), torch.linalg.inv(exact.covariance)
    off = mean - exact.mean.flatten(1)
    divergence = 0.5 * (
        (precision @ F @ F.T).trace()
        + ((off @ precision) * off).sum(1)
        - 6
        - torch.logdet(precision @ F @ F.T)
    )
    bound = (exact.log_evidence - divergence).mean()
    expected = torch.autograd.grad(bound, list(encoder.parameters()), materialize_grads=True)
    _, terms = evidence_terms(encoder(inputs), prior, fidelity, 20_000)
    assert float(terms.mean().detach()) == pytest.approx(float(bound.detach()), abs=0.05)
    found = torch.autograd.grad(terms.mean(), list(encoder.parameters()), materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) < 0.05 * max(1.0, float(b.abs().max()))


def test_rows_of_the_inputs_depend_on_their_observation_only():
    for kind in ("linear", "masks", "noise per observation", "complex", "emission"):
        _, fidelity, affine, inputs = problem(kind)
        seen, sufficient = Linearised(fidelity.operator, affine.centre.reshape(2, 3)), is_sufficient(fidelity)
        assert sufficient == (kind in ("linear", "complex"))
        for k in range(3):
            alone = encoder_inputs(fidelity.take(torch.tensor([k])), affine, seen, scores_only=sufficient)
            torch.testing.assert_close(alone[0], inputs[k])


def test_features_that_do_not_vary_say_nothing():
    encoder, inputs = made(FullCovariance(**SMALL))
    affine = encoder.affine
    inputs[:, 4] = 0.1
    constant = FullCovariance(**SMALL).build(affine, inputs)
    assert float(constant.whitening[4].abs().max()) == 0 and bool(constant.whitening.isfinite().all())
    c = (inputs - constant.shift) @ constant.whitening
    torch.testing.assert_close(c[:, :3].T @ c[:, :3] / 4, torch.eye(3, dtype=torch.float64))


@refuses(
    (FullCovariance, {"hidden": (0,)}, r"hidden\[0\] must be a positive integer"),
    (MeanField, {"hidden": (4, -1)}, r"hidden\[1\] must be a positive integer"),
    (InverseAutoregressive, {"bins": 1}, "bins 0 or at least 2, got 3 and 1"),
    (InverseAutoregressive, {"transforms": 0}, "transforms must be positive"),
    (InverseAutoregressive, {"flow_hidden": ()}, r"flow_hidden must be integers, got \(\)"),
    error=ValueError,
)
def test_bad_encoders(kind, options):
    kind(**options)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows.autoregressive", None)
    with pytest.raises(ImportError, match=r"needs zuko \(the extra genreg\[bayes\]\)"):
        made(InverseAutoregressive())
