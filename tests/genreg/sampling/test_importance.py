"""Importance weights: closed forms of a linear-Gaussian posterior under another prior, plain statistics, errors."""

import math

import pytest
import torch

from genreg.sampling.importance import kish_ess, pareto_smoothed, self_normalised, weighted_mean_and_std

from ...draws import gaussian
from ...refusals import refuses


def test_posterior_is_corrected_to_another_prior():
    """Draws of the posterior under N(0, I), weighted by N(m, s² I) / N(0, I), have the moments under N(m, s² I)."""
    M, y, sigma = gaussian(2, 3, seed=1), gaussian(2, 2, seed=2), 0.8
    m, s = torch.tensor([0.4, -0.2, 0.1]).double(), 0.8
    data = M.T @ M / sigma**2
    given = torch.linalg.inv(data + torch.eye(3))
    factor = torch.linalg.cholesky(given)
    draws, chains = 10000, 4
    z = (y @ M / sigma**2) @ given + gaussian(draws, chains, 2, 3) @ factor.T
    log_weights = 0.5 * z.square().sum(-1) - 0.5 * (z - m).square().sum(-1) / s**2

    wanted = torch.linalg.inv(data + torch.eye(3) / s**2)
    mean, std = (y @ M / sigma**2 + m / s**2) @ wanted, wanted.diagonal().sqrt()
    w = self_normalised(log_weights - 700)  # a constant does not matter, even where exp underflows
    torch.testing.assert_close(w.sum((0, 1)), torch.ones(2, dtype=torch.float64))
    found, spread = weighted_mean_and_std(z, w)
    # standard errors of the self-normalised estimates
    size = kish_ess(w)
    error = (w[..., None].square() * (z - found).square()).sum((0, 1)).sqrt()
    assert bool(((found - mean).abs() < 4 * error).all()) and bool((error < 0.02).all())
    second = ((z - found).square() - spread.square()) * w[..., None]
    assert bool(((spread.square() - std.square()).abs() < 4 * second.square().sum((0, 1)).sqrt()).all())
    assert bool((size < draws * chains).all()) and bool((size > 0.3 * draws * chains).all())
    plain = ((z.mean((0, 1)) - mean).abs() / error).amax()
    assert plain > 10  # without the weights it is another distribution


def test_effective_number_has_its_closed_form():
    """For weights exp(t x), x ~ N(0, 1), the share of effective draws tends to exp(-t²)."""
    x = gaussian(100000)
    for t in (0.3, 0.8):
        share = kish_ess(self_normalised(t * x, 0), 0) / len(x)
        assert share.item() == pytest.approx(math.exp(-(t**2)), rel=0.02)
    w = torch.zeros(7, 3, dtype=torch.float64)
    w[:, 0], w[2, 1], w[:4, 2] = 1e-200, 1.0, 5.0
    torch.testing.assert_close(kish_ess(w, 0), torch.tensor([7.0, 1.0, 4.0]).double())


def test_equal_weights_are_no_weights():
    x = gaussian(20, 3, 2, 4, 5)
    mean, std = weighted_mean_and_std(x, self_normalised(torch.full((20, 3, 2), -3.0, dtype=torch.float64)))
    torch.testing.assert_close(mean, x.mean((0, 1)))
    torch.testing.assert_close(std, x.flatten(0, 1).std(0))
    mean, std = weighted_mean_and_std(x, torch.ones(20, 3, 2).double(), 0)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(std, x.std(0))


def test_samples_of_a_batch_are_weighted_each_by_itself():
    x, log_weights = gaussian(20, 3, 4, 5), gaussian(20, 3, 4, seed=1)
    w = self_normalised(log_weights)
    mean, std = weighted_mean_and_std(x, w)
    for k in range(4):
        alone = self_normalised(log_weights[..., k])
        torch.testing.assert_close(alone, w[..., k])
        one = weighted_mean_and_std(x[:, :, k], alone)
        torch.testing.assert_close(one, (mean[k], std[k]))
        torch.testing.assert_close(kish_ess(alone), kish_ess(w)[k])


def test_draws_that_there_are_not_do_not_count():
    x, log_weights = gaussian(20, 3, 4, 5), gaussian(20, 3, 4, seed=1)
    x[12:, 1] = math.nan
    log_weights[12:, 1] = math.nan
    log_weights[:, 2, 0] = -math.inf
    w = self_normalised(log_weights)
    assert bool((w[12:, 1] == 0).all()) and bool((w[:, 2, 0] == 0).all())
    mean, std = weighted_mean_and_std(x, w)
    assert bool(mean.isfinite().all()) and bool(std.isfinite().all())
    only = torch.cat((x[:, 0, 0], x[:12, 1, 0])), torch.cat((log_weights[:, 0, 0], log_weights[:12, 1, 0]))
    torch.testing.assert_close(
        weighted_mean_and_std(only[0], self_normalised(only[1], 0), 0), (mean[0], std[0])
    )

    log_weights[..., 3] = math.nan  # nothing is left of one sample: the others are as they were
    lost = self_normalised(log_weights)
    assert bool(lost[..., 3].isnan().all()) and torch.equal(lost[..., :3], w[..., :3])


def test_smoothing_bounds_the_largest_weight():
    pytest.importorskip("arviz_stats")
    shapes = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    heavy = shapes * -torch.special.log_ndtr(gaussian(500, 4, 3))  # weights of Pareto distributions
    smoothed, k = pareto_smoothed(heavy)
    assert smoothed.shape == heavy.shape and k.shape == (3,) and bool((k[:-1] < k[1:]).all())
    torch.testing.assert_close(smoothed.logsumexp((0, 1)), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(k, shapes, rtol=0, atol=0.25)
    # all but the largest keep their ratios, and the order stays
    order = heavy.flatten(0, 1).argsort(0)
    ordered = smoothed.flatten(0, 1).gather(0, order)
    shift = (ordered - heavy.flatten(0, 1).gather(0, order))[:1800]
    torch.testing.assert_close(shift, shift[:1].expand(1800, 3))
    assert bool((ordered.diff(dim=0) >= -1e-12).all())

    heavy[7, 1, 1] += 20  # one draw with all the weight
    plain, w = self_normalised(heavy), self_normalised(pareto_smoothed(heavy)[0])
    assert plain[..., 1].max() > 0.99 and w[..., 1].max() < 0.9 and kish_ess(w)[1] > 1.2 > kish_ess(plain)[1]
    one, single = pareto_smoothed(heavy[:, :, 2])
    torch.testing.assert_close(one, smoothed[..., 2])
    assert single.shape == () and single.item() == pytest.approx(k[2].item())


@refuses(
    (lambda x: self_normalised(x.long(), 0), TypeError, "log_weights must be a real floating.*int64"),
    (lambda x: self_normalised([1.0], 0), TypeError, "log_weights must be a real floating.*list"),
    (lambda x: self_normalised(x, 3), ValueError, r"dims must be different axes of log_weights.*got 3"),
    (lambda x: self_normalised(x, (0, -3)), ValueError, r"got \(0, -3\)"),
    (lambda x: self_normalised(x, ()), ValueError, "dims must be different axes"),
    (lambda x: self_normalised(x[:0]), ValueError, r"must have draws.*got the shape \(0, 3, 4\)"),
    (lambda x: self_normalised(x + math.inf), ValueError, "got plus infinity"),
    (lambda x: kish_ess(x, (1, 1)), ValueError, "dims must be different axes of weights"),
    (
        lambda x: weighted_mean_and_std(x[0], x),
        ValueError,
        r"values must have the shape of weights, \(5, 3, 4\)",
    ),
    (lambda x: weighted_mean_and_std(x.long(), x), TypeError, "values must be a real floating"),
    (lambda x: pareto_smoothed(x / 0), ValueError, "log_weights must be finite"),
)
def test_bad_arguments(call):
    call(gaussian(5, 3, 4).abs())
