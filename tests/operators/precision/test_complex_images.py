"""Precisions of complex images against those of their parts, and against matrices."""

import copy
import functools
import pickle

import numpy as np
import odl
import pytest
import torch

from genreg.operators import (
    ComplexPrecision,
    GaussianPosterior,
    IsotropicPrecision,
    condition,
    dot_test,
    fourier_sampling,
    marginal_variance,
    to_torch,
)
from genreg.operators.bridge.complex_parts import from_channels, squared_modulus, to_channels
from genreg.operators.precision.complex_images import isotropic_precision

from ..precisions import Case

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
SHAPE = (4, 3)
SPACES = {
    "numbers": odl.cn(SHAPE),
    "functions": odl.uniform_discr([0, 0], [0.3, 0.3], SHAPE, dtype="complex128"),
}


def pair(batch=(), name="coupled", space="numbers"):
    """The precision of complex images, and that of their parts."""
    channels = Case(name, batch).make()
    return ComplexPrecision(SPACES[space], channels), channels


def images(*lead, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, *SHAPE, dtype=torch.complex128, generator=generator)


def flat(x):
    return to_channels(x).flatten(-3)


def test_parts():
    x = images(2, 3)
    parts = to_channels(x)
    assert parts.shape == (2, 3, 2, *SHAPE) and from_channels(parts).equal(x)
    close(squared_modulus(x), x.abs().square())
    at_zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    value = squared_modulus(torch.view_as_complex(at_zero)).sum()
    slope = torch.autograd.grad(value, at_zero, create_graph=True)[0]
    assert torch.autograd.grad(slope[0, 1], at_zero)[0].tolist() == [[0.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize("batch, lead", [((), (2,)), ((3,), ()), ((3,), (2,))])
def test_methods_equal_the_dense_matrix(batch, lead):
    P, channels = pair(batch)
    r, dense = images(*lead, *batch), channels.to_dense()
    assert P.batch == batch and P.size == 24 and P.to_dense().equal(dense)
    times = lambda M: (M @ flat(r)[..., None])[..., 0]  # noqa: E731
    close(flat(P.forward(r)), times(dense))
    close(flat(P.solve(r)), times(torch.linalg.inv(dense)))
    close(P.unwhiten(P.whiten(r)), P.forward(r))
    close(P.whiten(P.colour(r)), r)
    close(P.unwhiten(P.uncolour(r)), r)
    close(P.quadratic(r), (flat(r) * times(dense)).sum(-1))
    close(P.logdet(), torch.logdet(dense))
    normal = torch.distributions.MultivariateNormal(dense.new_zeros(24), precision_matrix=dense)
    close(P.log_density(r), normal.log_prob(flat(r)))
    close(flat(P.diagonal), channels.diagonal.flatten(len(batch)))
    keep = torch.arange(12).view(SHAPE) % 3 > 0
    close(P.restrict(keep).to_dense(), channels.restrict(keep.expand(2, *SHAPE)).to_dense())


def test_a_batch_equals_its_samples_and_copies():
    P, r = pair((3,))[0], images(3)
    for k in range(3):
        one = P.take(k)
        close(one.solve(r[k]), P.solve(r)[k])
        close(one.log_density(r[k]), P.log_density(r)[k])
        np.testing.assert_allclose(one.to_scipy().toarray(), P.to_dense()[k].numpy(), atol=1e-12)
    for Q in (copy.deepcopy(P), pickle.loads(pickle.dumps(P)), P.detach(), P.take(slice(0, 3))):
        assert Q.solve(r).equal(P.solve(r)) and Q.domain == P.domain


@pytest.mark.parametrize("space", SPACES)
def test_odl_operators(space):
    P = pair(space=space)[0]
    for A in (P, P.inverse, P.factor, P.factor.inverse):
        dot_test(A, real=True)
    x = P.domain.element(images().numpy())
    close(torch.as_tensor(P.inverse(P(x)).data), images())


def test_samples():
    P = pair((2,))[0]
    x = P.sample(4000, 0)
    assert x.shape == (4000, 2, *SHAPE) and x.is_complex() and P.sample(2, 1).equal(P.sample(2, 1))
    whitened = flat(P.whiten(x)).flatten(0, 1)
    assert float((whitened.T.cov() - torch.eye(24)).abs().max()) < 5 * (2 / 8000) ** 0.5


def test_isotropic():
    X, beta = SPACES["numbers"], torch.tensor([0.5, 2.0], dtype=torch.float64)
    P, r = isotropic_precision(X, beta), images(2)
    close(P.forward(r), beta[:, None, None] * r)
    close(P.logdet(), 24 * beta.log())
    assert isinstance(isotropic_precision(odl.rn(SHAPE), 2.0), IsotropicPrecision)


@pytest.mark.parametrize("per_datum", [False, True])
def test_the_posterior_of_complex_images_is_that_of_two_channels(per_datum):
    P, channels = pair((2,), space="functions")
    X = P.domain
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.6
    A = fourier_sampling(X, mask)
    truth, mean = images(2, seed=2), images(2, seed=3)
    y = to_torch(A)(truth)
    inverse_variance = torch.tensor([4.0, 9.0], dtype=torch.float64)
    weights = inverse_variance[:, None].expand(y.shape) if per_datum else inverse_variance
    posterior = GaussianPosterior(A, y, mean, P, weights, tol=1e-6)
    basis = torch.eye(24, dtype=torch.float64).view(24, 2, *SHAPE)
    J = torch.view_as_real(to_torch(A)(from_channels(basis))).flatten(1).T  # (2 m, 24)
    for k in range(2):
        matrix = channels.to_dense()[k] + inverse_variance[k] * J.T @ J
        residual = torch.view_as_real(y[k] - to_torch(A)(mean[k])).flatten()
        expected = flat(mean[k]) + torch.linalg.solve(matrix, inverse_variance[k] * J.T @ residual)
        close(flat(posterior.mean[k]), expected, rtol=1e-5, atol=1e-5)
    if per_datum:
        return
    draws = posterior.sample(1000, 0)
    covariance = torch.linalg.inv(channels.to_dense()[1] + 9 * J.T @ J)
    std = covariance.diagonal().sqrt()
    found = flat(draws[:, 1]).T.cov()
    assert float(((found - covariance) / torch.outer(std, std)).abs().max()) < 5 * (2 / 1000) ** 0.5
    total = covariance.diagonal().view(2, *SHAPE).sum(0).sqrt()
    assert float((posterior.std(300, 0)[1] / total - 1).abs().max()) < 0.15


def test_bad_input():
    P, channels = pair()
    with pytest.raises(TypeError, match="space must be a complex tensor space, got"):
        ComplexPrecision(odl.rn(SHAPE), channels)
    with pytest.raises(TypeError, match="channels must be a Precision, got str"):
        ComplexPrecision(P.domain, "channels")
    for space in (odl.cn((3, 4)), odl.cn(SHAPE, dtype="complex64")):
        with pytest.raises(ValueError, match=r"channels must be a precision of images \(2, \d, \d\) of"):
            ComplexPrecision(space, channels)
    with pytest.raises(TypeError, match="precision must be one of real images"):
        marginal_variance(P)
    with pytest.raises(TypeError, match="precision must be one of real images"):
        condition(P, images(), torch.ones(SHAPE, dtype=torch.bool), images())
