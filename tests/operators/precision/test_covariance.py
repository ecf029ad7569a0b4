import pytest
import torch

from genreg.operators import correlation_image, covariance_column, marginal_variance
from genreg.operators.precision import covariance

from ..precisions import NAMES, Case


def covariances(case):
    """The covariance matrix, and its diagonal as an image."""
    L = case.factor()
    matrix = torch.linalg.inv(L @ L.mT)
    return matrix, matrix.diagonal(dim1=-2, dim2=-1).reshape(*case.batch, *case.shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_exact_values(name, batch):
    case = Case(name, batch)
    P, (matrix, variance) = case.make(), covariances(case)
    found = marginal_variance(P)
    torch.testing.assert_close(found.value, variance, rtol=1e-10, atol=0)
    assert found.error.shape == variance.shape and not bool(found.error.any())
    index = tuple(n // 2 for n in case.shape)
    place = int(torch.arange(case.size).reshape(case.shape)[index])
    column = matrix[..., place].reshape(variance.shape)
    torch.testing.assert_close(covariance_column(P, index), column)
    assert covariance_column(P, [i - n for i, n in zip(index, case.shape, strict=True)]).equal(
        covariance_column(P, index)
    )
    own = variance[(..., *index)].reshape(*batch, *(1,) * len(case.shape))
    for image in (correlation_image(P, index), correlation_image(P, index, variance=variance)):
        torch.testing.assert_close(image, column / (own * variance).sqrt())
        assert bool((image[(..., *index)] == 1).all()) and float(image.abs().max()) <= 1 + 1e-12


def wider():
    """A batch of precisions with long correlations, of images of two channels."""
    case = Case("two channels", (40,))
    case.parameters = tuple(0.6 * p - 0.15 for p in case.parameters)
    return case


def test_sampled_variances_have_the_error_they_state():
    case = wider()
    _, variance = covariances(case)
    found = marginal_variance(case.make(), method="sampling", samples=200, seed=1)
    assert found.value.shape == found.error.shape == variance.shape
    inner = found.error > 1e-6 * variance  # the last pixel has no error at all
    assert not bool(inner[:, -1, -1, -1].any()) and float(inner.double().mean()) > 0.95
    scores = ((found.value - variance) / found.error)[inner]
    # 920 scores, which depend on each other within an image of 24 pixels
    assert float(scores.square().mean().sqrt()) == pytest.approx(1, abs=0.1)
    # low draws come with low errors, and so the scores lean to the left
    assert float(scores.mean()) == pytest.approx(-((2 / 200) ** 0.5), abs=0.1)
    last = (found.value / variance)[:, -1, -1, -1]
    torch.testing.assert_close(last, torch.ones_like(last))


def test_sampled_variances_are_better_than_mean_squares():
    """Less error than the plain estimator, and than that of Sidén et al. (2018), which knows all other pixels."""
    case = wider()
    P, (_, variance) = case.make(), covariances(case)
    samples, trials = 20, 30
    errors = {"plain": 0.0, "all others": 0.0, "later": 0.0}
    own = P.to_dense().diagonal(dim1=-2, dim2=-1).reshape(variance.shape)
    for seed in range(trials):
        x = P.sample(samples, seed)
        estimates = {
            "plain": x.square().mean(0),
            "all others": 1 / own + (x - P.forward(x) / own).square().mean(0),
            "later": marginal_variance(P, method="sampling", samples=samples, seed=seed).value,
        }
        for name, estimate in estimates.items():
            errors[name] += float((estimate / variance - 1).square().mean()) / trials
    assert errors["later"] < 0.95 * errors["all others"] < 0.9 * errors["plain"]
    assert errors["plain"] == pytest.approx(2 / samples, rel=0.1)
    stated = marginal_variance(P, method="sampling", samples=4000).error * (4000 / samples) ** 0.5
    assert errors["later"] == pytest.approx(float((stated / variance).square().mean()), rel=0.1)


@pytest.mark.parametrize("name", ["isotropic", "diagonal"])
def test_independent_pixels_need_no_draws(name):
    case = Case(name, (2,))
    _, variance = covariances(case)
    found = marginal_variance(case.make(), method="sampling", samples=2)
    torch.testing.assert_close(found.value, variance)
    assert float(found.error.max()) < 1e-12


def test_the_method_follows_the_cost_and_draws_come_in_parts(monkeypatch):
    case = Case("d2", (2,))
    P = case.make()
    assert not bool(marginal_variance(P).error.any())
    monkeypatch.setattr(covariance, "_EXACT", 100)
    estimate = marginal_variance(P, samples=50)
    assert bool(estimate.error.any()) and estimate.value.equal(marginal_variance(P, samples=50, seed=0).value)
    generator = torch.Generator().manual_seed(0)
    assert estimate.value.equal(marginal_variance(P, samples=50, seed=generator).value)
    assert not estimate.value.equal(marginal_variance(P, samples=50, seed=1).value)
    monkeypatch.setattr(covariance, "_CHUNK", 100)
    _, variance = covariances(case)
    parts = marginal_variance(P, samples=2000)
    assert float(((parts.value - variance) / variance).abs().max()) < 5 * (2 / 2000) ** 0.5
    assert not bool(marginal_variance(P, method="exact").error.any())


def test_single_precision():
    double, single = Case("d2", (2,)), Case("d2", (2,), dtype="float32")
    found = marginal_variance(single.make()).value
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), marginal_variance(double.make()).value, rtol=1e-5, atol=1e-5)


def test_bad_input():
    P = Case("d1").make()
    for function in (covariance_column, correlation_image):
        with pytest.raises(TypeError, match="precision must be a Precision, got ndarray"):
            function(P.to_dense().numpy(), (0, 0))
        for index in ((4, 0), (0, -6), (0,), (0, 0, 0)):
            with pytest.raises(ValueError, match=r"index must be that of a pixel of images \(4, 5\), got"):
                function(P, index)
    with pytest.raises(ValueError, match=r"variance must have the shape \(4, 5\), got \(5, 4\)"):
        correlation_image(P, (0, 0), variance=torch.ones(5, 4))
    with pytest.raises(TypeError, match="precision must be a Precision, got NoneType"):
        marginal_variance(None)
    with pytest.raises(ValueError, match=r"method must be one of .*'exact', 'sampling'.*, got 3"):
        marginal_variance(P, method=3)
    for samples, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"samples must be (a positive|an) integer, got"):
            marginal_variance(P, method="sampling", samples=samples)
