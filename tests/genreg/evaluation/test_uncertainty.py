"""Sparsification against hand-computed curves and brute force; links; likelihood by change of variables."""

import math

import numpy as np
import odl
import pytest
import torch

from genreg.evaluation import image_moments, log_likelihood, sparsification
from genreg.networks.links import LINKS, Identity, Link, Log, Logit
from genreg.operators import DiagonalPrecision, IsotropicPrecision, SparseCholeskyPrecision

from ...draws import gaussian

ALL = [Identity(), Log(), Logit(), Logit(lower=-1.0, upper=3.0, eps=1e-5)]


# sparsification


def test_curves_and_areas_by_hand():
    error = torch.tensor([[3.0, -1.0, 0.0, 2.0]])
    uncertainty = torch.tensor([[0.2, 0.4, 0.1, 0.3]])  # removes -1, 2, 3, 0
    found = sparsification(error, uncertainty, steps=None, measure="mae")
    np.testing.assert_allclose(found.fraction, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(found.error, [[6 / 4, 5 / 3, 3 / 2, 0]])
    np.testing.assert_allclose(found.oracle, [[6 / 4, 3 / 3, 1 / 2, 0]])
    assert found.ause.item() == pytest.approx((2 / 3 + 1) / 4)
    assert found.aurg.item() == pytest.approx((1.5 - 5 / 3 + 0 + 1.5) / 4)
    square = sparsification(error, uncertainty, steps=None)
    np.testing.assert_allclose(square.error.square(), [[14 / 4, 13 / 3, 9 / 2, 0]])
    np.testing.assert_allclose(square.oracle.square(), [[14 / 4, 5 / 3, 1 / 2, 0]])
    half = sparsification(error, uncertainty, steps=2)
    np.testing.assert_allclose(half.error, square.error[:, ::2])


def brute_force(error, uncertainty, steps, power):
    """The pixels of one image are removed one after the other, in every order of equal uncertainties in turn."""
    curve = []
    order = sorted(range(len(error)), key=lambda i: -uncertainty[i])
    for step in range(steps):
        removed = step * len(error) // steps
        left, value = order[removed:], 0.0
        for level in {uncertainty[i] for i in left}:
            group = [i for i in order if uncertainty[i] == level]
            count = sum(uncertainty[i] == level for i in left)
            value += count * sum(abs(error[i]) ** power for i in group) / len(group)
        curve.append((value / len(left)) ** (1 / power))
    return curve


@pytest.mark.parametrize(("measure", "power"), [("rmse", 2), ("mae", 1)])
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_curves_agree_with_brute_force(measure, power, steps):
    error = gaussian(3, 5, 6)
    uncertainty = (3 * gaussian(3, 5, 6, seed=1)).round()  # with ties
    found = sparsification(error, uncertainty, steps=steps, measure=measure)
    for k in range(3):
        e, u = error[k].flatten().tolist(), uncertainty[k].flatten().tolist()
        np.testing.assert_allclose(found.error[k], brute_force(e, u, steps, power), rtol=1e-12)
        np.testing.assert_allclose(
            found.oracle[k], brute_force(e, [abs(t) for t in e], steps, power), rtol=1e-12
        )


def test_limits_of_the_areas():
    error = gaussian(4, 8, 8)
    best = sparsification(error, error.abs() * 7)
    np.testing.assert_array_equal(best.ause, np.zeros(4))
    constant = sparsification(error, torch.ones(4, 8, 8))
    np.testing.assert_allclose(constant.aurg, 0, atol=1e-14)
    np.testing.assert_allclose(constant.error, constant.random[:, None].expand(-1, 50))
    np.testing.assert_allclose(constant.random, error.square().mean((1, 2)).sqrt())
    worst = sparsification(error, -error.abs())
    some = sparsification(error, error.abs() + 0.3 * gaussian(4, 8, 8, seed=1))
    assert (some.ause > 0).all() and (some.ause < worst.ause).all() and (some.aurg > 0).all()
    assert (worst.aurg < 0).all()
    np.testing.assert_allclose(some.ause + some.aurg, best.aurg)
    same = sparsification(
        error, (error.abs() + 0.3 * gaussian(4, 8, 8, seed=1)).exp()
    )  # only the order counts
    np.testing.assert_array_equal(same.ause, some.ause)


def test_normalised_curves_do_not_depend_on_the_scale():
    error, uncertainty = gaussian(2, 40), gaussian(2, 40, seed=1)
    one = sparsification(error, uncertainty, steps=40, normalise=True)
    other = sparsification(1e-3 * error, uncertainty, steps=40, normalise=True)
    np.testing.assert_allclose(one.error[:, 0], 1)
    np.testing.assert_allclose(one.ause, other.ause, rtol=1e-12)
    plain = sparsification(error, uncertainty, steps=40)
    np.testing.assert_allclose(plain.ause, one.ause * plain.random)
    perfect = sparsification(torch.zeros(1, 40), uncertainty[:1], steps=40, normalise=True)
    assert perfect.ause.item() == perfect.aurg.item() == 0


def test_bad_input_of_sparsification():
    ones = torch.ones(2, 3, 4)
    with pytest.raises(
        ValueError, match=r"uncertainty must have the shape of error, \(2, 3, 4\), got \(2, 4, 3\)"
    ):
        sparsification(ones, torch.ones(2, 4, 3))
    with pytest.raises(ValueError, match="uncertainty must be finite, got 24 values"):
        sparsification(ones, ones / 0)
    with pytest.raises(ValueError, match="at least one pixel"):
        sparsification(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeError, match="error must be real"):
        sparsification(ones.to(torch.complex64), ones)
    with pytest.raises(ValueError, match=r"steps must be an integer from 1 to 12, got 50"):
        sparsification(ones, ones)
    with pytest.raises(ValueError, match="measure must be one of"):
        sparsification(ones, ones, steps=3, measure="median")


# links


@pytest.mark.parametrize("link", ALL)
def test_links_invert_and_know_their_derivative(link):
    v = 2 * gaussian(50)
    y = link.inverse(v).requires_grad_()
    torch.testing.assert_close(link.forward(y), v, rtol=1e-10, atol=1e-12)
    (slope,) = torch.autograd.grad(link.forward(y).sum(), y)
    torch.testing.assert_close(link.log_derivative(y.detach()), slope.log(), rtol=1e-9, atol=1e-9)
    assert Link.from_dict(link.to_dict()) == link


def test_links_clip_at_their_bounds():
    v = Logit(upper=0.5, eps=0.01).forward(torch.tensor([-1.0, 0.0, 0.25, 0.5, 2.0]))
    bound = math.log(0.99 / 0.01)
    torch.testing.assert_close(v, torch.tensor([-bound, -bound, 0, bound, bound]))
    torch.testing.assert_close(
        Log(eps=0.1).forward(torch.tensor([-3.0, 1.0])), torch.tensor([math.log(0.1), 0])
    )
    slope = Logit(upper=0.5, eps=0.01).log_derivative(torch.tensor([-1.0, 0.25]))
    torch.testing.assert_close(slope, torch.tensor([1 / (0.01 * 0.99 * 0.5), 1 / (0.25 * 0.5)]).log())


def test_bad_links():
    with pytest.raises(ValueError, match=r"lower and upper must be finite with lower < upper, got 1\.0"):
        Logit(lower=1.0)
    with pytest.raises(ValueError, match=r"eps must lie in \(0, 0.5\), got 0.5"):
        Logit(eps=0.5)
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        Log(eps=0)
    with pytest.raises(ValueError, match="name of a link must be one of"):
        Link.from_dict({"name": "probit"})
    with pytest.raises(ValueError, match="entries of the link 'log' do not fit"):
        Link.from_dict({"name": "log", "scale": 2})
    assert set(LINKS) == {"identity", "log", "logit"}


# likelihood and moments


def precisions(batch, shape=(3, 4)):
    X = odl.rn(shape)
    return [
        IsotropicPrecision(X, torch.rand(batch, dtype=torch.float64) + 0.5),
        DiagonalPrecision(X, gaussian(*batch, *shape)),
        SparseCholeskyPrecision(
            X, 0.3 * gaussian(*batch, *shape), 0.1 * gaussian(*batch, 4, *shape, seed=1), distance=1
        ),
    ]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("link", ALL)
def test_likelihood_agrees_with_the_transformed_density(kind, link):
    precision = precisions((5,))[kind]
    mean, v = gaussian(5, 3, 4, seed=2), gaussian(2, 5, 3, 4, seed=3)
    y = link.inverse(v)
    found = log_likelihood(y, mean, precision, link=link)
    assert found.shape == (2, 5)
    dense = precision.to_dense()
    for k in range(5):
        normal = torch.distributions.MultivariateNormal(mean[k].flatten(), precision_matrix=dense[k])
        for n in range(2):
            jacobian = torch.autograd.functional.jacobian(link.inverse, v[n, k].flatten())
            expected = normal.log_prob(v[n, k].flatten()) - torch.linalg.slogdet(jacobian).logabsdet
            assert found[n, k].item() == pytest.approx(expected.item(), rel=1e-8)
    single = log_likelihood(y[0, 1], mean[1], precision.take(1), link=link)
    torch.testing.assert_close(single, found[0, 1])


def test_the_density_of_an_image_integrates_to_one():
    X, link = odl.rn((1, 2)), Logit(lower=-1.0, upper=1.0)
    precision = DiagonalPrecision(X, torch.tensor([[0.3, -0.2]], dtype=torch.float64))
    line = (torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1
    grid = torch.cartesian_prod(line, line)[:, None]
    mean = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    assert log_likelihood(grid, mean, precision, link=link).exp().sum().item() / 200**2 == pytest.approx(
        1, abs=2e-3
    )


@pytest.mark.parametrize("kind", range(3))
def test_moments_of_images(kind):
    precision, mean = precisions((2,))[kind], gaussian(2, 3, 4)
    variance = torch.linalg.inv(precision.to_dense()).diagonal(dim1=1, dim2=2).unflatten(1, (3, 4))
    found, std = image_moments(mean, precision)
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(std, variance.sqrt())
    found, std = image_moments(mean, precision, link=Log())  # log-normal
    exact = (mean + variance / 2).exp()
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(std, exact * variance.expm1().sqrt(), rtol=1e-5, atol=0)
    link = Logit(lower=-1.0, upper=2.0)
    samples = link.inverse(mean + precision.sample(20000, 0))
    found, std = image_moments(mean, precision, link=link)
    assert ((found - samples.mean(0)).abs() < 5 * std / math.sqrt(20000)).all()
    assert ((std / samples.std(0) - 1).abs() < 5 / math.sqrt(20000)).all()
    one, one_std = image_moments(mean[1], precision.take(1), link=link)
    torch.testing.assert_close(one, found[1])
    torch.testing.assert_close(one_std, std[1])


def test_bad_input_of_likelihood_and_moments():
    precision, mean = precisions((2,))[1], gaussian(2, 3, 4)
    with pytest.raises(TypeError, match=r"precision must be a genreg\.operators\.Precision, got float"):
        log_likelihood(mean, mean, 1.0)
    with pytest.raises(ValueError, match=r"y must have the shape \(\*batch, 3, 4\)"):
        log_likelihood(gaussian(3, 3, 4), mean, precision)
    with pytest.raises(ValueError, match=r"mean must have the shape \(\*batch, 3, 4\)"):
        log_likelihood(mean, gaussian(2, 4, 3), precision)
    with pytest.raises(ValueError, match=r"mean must have the shape \(2, 3, 4\) of the precision"):
        image_moments(mean[0], precision)
    with pytest.raises(ValueError, match="nodes must be an integer of at least 2, got 1"):
        image_moments(mean, precision, nodes=1)
