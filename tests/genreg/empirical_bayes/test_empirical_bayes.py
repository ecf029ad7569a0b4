"""Gaussian graphical models as densities, generators and regularisers, against dense formulas; bad input."""

import odl
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from genreg import GaussianFidelity, HardConstraint, reconstruct
from genreg.empirical_bayes import GaussianGraphicalModel, GraphicalLasso
from genreg.empirical_bayes.priors import PosteriorDraws
from genreg.operators import derivative_test, dot_test, gaussian_measurements, to_torch
from genreg.operators.bridge.tensor_operator import TensorOperator

from ...draws import gaussian
from ...refusals import refuses

DENSE = GraphicalLasso(lam=0.0, refit=False)


def images(dtype="float64"):
    return odl.uniform_discr([0, 0], [4, 3], (2, 3), dtype=dtype)  # cells of 2 by 1


def positive(p, count, seed=0):
    root = gaussian(count, p, p, seed=seed)
    return root @ root.mT / p + 0.5 * torch.eye(p, dtype=torch.float64)


def mixture(space, components=2, seed=0):
    p = space.size
    weights = torch.arange(1.0, components + 1, dtype=torch.float64)
    means = 0.8 * gaussian(components, p, seed=seed + 1)
    matrices = positive(p, components, seed)
    return GaussianGraphicalModel(
        space, components, mean="learned", precision=matrices, means=means, weights=weights
    )


def law(prior):
    """The same as a distribution of torch."""
    parts = MultivariateNormal(prior.means, precision_matrix=prior.matrices)
    return MixtureSameFamily(Categorical(prior.weights), parts)


def chain(p, tie=-0.4):
    off = torch.full((p - 1,), tie, dtype=torch.float64)
    return torch.eye(p, dtype=torch.float64) + torch.diag(off, 1) + torch.diag(off, -1)


class Identity(TensorOperator):
    def forward(self, t):
        return t

    transpose = forward


def matrix_of(A):
    """The matrix of an operator, complex data as real and imaginary parts."""
    basis = torch.eye(A.domain.size, dtype=torch.float64).unflatten(1, A.domain.shape)
    columns = to_torch(A)(basis)
    return (torch.view_as_real(columns) if columns.is_complex() else columns).flatten(1).T


def noisy(prior, n, sigma, A=None, seed=1):
    A = Identity(prior.space, prior.space) if A is None else A
    y = to_torch(A)(prior.sample(n, seed=seed))
    return GaussianFidelity(A, y + sigma * gaussian(*y.shape, seed=seed + 1), sigma)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("batch", [(), (1,), (4, 2)])
def test_the_density_is_that_of_torch(components, batch):
    prior = mixture(images(), components)
    z = gaussian(*batch, 2, 3, seed=5).requires_grad_()
    value = prior.log_prob(z)
    expected = law(prior).log_prob(z.flatten(len(batch)))
    assert value.shape == batch
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(v.sum(), z)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients)
    mean, covariance = prior.moments()
    torch.testing.assert_close(mean, law(prior).mean)
    torch.testing.assert_close(covariance.diagonal(), law(prior).variance)
    assert prior.edges().dtype == torch.bool and int(prior.edges().sum()) == 30


@pytest.mark.parametrize("components", [1, 2])
def test_draws_of_a_prior(components):
    prior = mixture(images(), components)
    z = prior.sample(20_000, seed=1)
    assert z.shape == (20_000, 2, 3) and torch.equal(z[:5], prior.sample(20_000, seed=1)[:5])
    assert not torch.equal(z[:5], prior.sample(20_000, seed=2)[:5])
    mean, covariance = prior.moments()
    z = z.flatten(1)
    error = (z.mean(0) - mean) / (covariance.diagonal() / len(z)).sqrt()
    assert float(error.abs().max()) < 4
    std = covariance.diagonal().sqrt()
    torch.testing.assert_close(
        torch.cov(z.T) / (std[:, None] * std), covariance / (std[:, None] * std), rtol=0, atol=0.04
    )


def test_a_prior_as_generator():
    prior = mixture(images(), 1)
    G = prior.generator()
    derivative_test(G)
    e = gaussian(3, 6)
    x = to_torch(G)(e)
    linear = torch.linalg.inv(torch.linalg.cholesky(prior.matrices[0])).T
    torch.testing.assert_close(x.flatten(1), prior.means + e @ linear.T)
    torch.testing.assert_close(linear @ linear.T, prior.moments()[1])
    torch.testing.assert_close(G.encode(x), e)
    dot_test(G.derivative(G.domain.element(e[0].numpy())))


def test_a_prior_as_regulariser():
    X = images()
    prior = mixture(X, 1)
    A = gaussian_measurements(X, 4, seed=0)
    M, (mean, covariance) = matrix_of(A), prior.moments()
    y = gaussian(3, 4)
    settings = {"noise_std": 0.3, "tol": 1e-12, "progress": False}
    gain = covariance @ M.T @ torch.linalg.inv(M @ covariance @ M.T + 0.09 * torch.eye(4))
    expected = mean + (y - M @ mean) @ gain.T
    joint = reconstruct(A, y, prior.joint_prior(), lam=1.0, **settings)
    torch.testing.assert_close(joint.image.flatten(1), expected, rtol=0, atol=1e-6)
    hard = reconstruct(A, y, HardConstraint(prior.generator()), lam=0.5, **settings)
    torch.testing.assert_close(hard.image.flatten(1), expected, rtol=0, atol=1e-5)
    two = mixture(X, 2)
    for make in (two.joint_prior, two.generator):
        with pytest.raises(ValueError, match="must have one component, got a mixture of 2"):
            make()


def test_the_state_of_a_prior():
    prior, other = mixture(images(), 2), GaussianGraphicalModel(images(), 2, mean="learned")
    other.load_state_dict(prior.state_dict())
    z = gaussian(3, 2, 3)
    assert torch.equal(prior.log_prob(z), other.log_prob(z))
    other.begin(gaussian(30, 6), torch.eye(6), seed=0)  # what was learned is a start, too
    assert torch.equal(prior.log_prob(z), other.log_prob(z))


X = odl.rn(3)
EYE = torch.eye(3, dtype=torch.float64)


@refuses(
    (X, {"precision": -EYE}, ValueError, "precision must be positive definite"),
    (X, {"precision": EYE + 0.1 * EYE.roll(1, 0)}, ValueError, "precision must be symmetric"),
    (X, {"precision": EYE[:2, :2]}, ValueError, r"precision must have the shape \(3, 3\)"),
    (X, {"precision": EYE.expand(2, 3, 3)}, ValueError, r"precision must have the shape \(3, 3\)"),
    (X, {"precision": EYE * torch.nan}, ValueError, "precision must be finite"),
    (X, {"precision": "eye"}, TypeError, "precision must be"),
    (X, {"components": 0}, ValueError, "components must be a positive integer, got 0"),
    (X, {"components": True}, TypeError, "components must be an integer, got True"),
    (X, {"mean": "x"}, ValueError, r"mean must be one of \['zero', 'learned'\], got 'x'"),
    (X, {"means": torch.zeros(1, 3)}, ValueError, "means must not be given where mean is 'zero'"),
    (X, {"mean": "learned", "means": torch.zeros(3)}, ValueError, r"of the shape \(1, 3\)"),
    (X, {"mean": "learned", "means": [0.0]}, TypeError, "means must be a real tensor"),
    (X, {"weights": torch.tensor([-1.0])}, ValueError, "weights must be positive"),
    (X, {"weights": torch.tensor([torch.nan])}, ValueError, "weights must be finite"),
    (X, {"estimator": "bic"}, TypeError, "estimator must be a GraphicalLasso, got str"),
    (odl.cn(3), {}, TypeError, "space must be a real tensor space"),
    (3, {}, TypeError, "space must be a real tensor space"),
)
def test_bad_priors(space, options):
    GaussianGraphicalModel(space, **options)


def test_a_component_that_nothing_comes_from_stays():
    space = odl.rn(2)
    far = torch.stack([torch.zeros(2), torch.full((2,), 1e3)]).double()
    prior = GaussianGraphicalModel(
        space, 2, mean="learned", precision=positive(2, 2), means=far, estimator=DENSE
    )
    before = prior.matrices[1].clone()
    z = gaussian(1, 500, 2)

    prior.accumulate(PosteriorDraws(z), 1.0)
    prior.update(500)
    assert torch.equal(prior.matrices[1], before) and torch.equal(prior.means[1], far[1])
    assert 0 < prior.weights[1] < 2e-3
    torch.testing.assert_close(prior.matrices[0], torch.linalg.inv(torch.cov(z[0].T, correction=0)))
