"""Coverage by ranks against exact Gaussian draws, ties, brute force; of intervals and of Gaussian pixels."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from genreg.evaluation import coverage, gaussian_coverage, interval_coverage, rank_transform

LEVELS = (0.5, 0.8, 0.95)


@pytest.fixture(scope="module")
def gaussian():
    """Truths and 39 draws of one Gaussian with correlated pixels, its mean and standard deviation: 4000 images."""
    random = torch.Generator().manual_seed(3)
    factor = torch.tril(torch.randn((6, 6), generator=random, dtype=torch.float64))
    mean = torch.randn((4000, 6), generator=random, dtype=torch.float64)
    x = mean + torch.randn((40, 4000, 6), generator=random, dtype=torch.float64) @ factor.T
    std = factor.square().sum(1).sqrt().expand(4000, 6)
    return tuple(t.unflatten(-1, (2, 3)) for t in (x[0], x[1:], mean, std))


def test_exact_draws_cover_what_they_promise(gaussian):
    truth, draws, *_ = gaussian
    found = coverage(draws, truth)
    assert found.share.shape == (4000, 3) and found.levels == LEVELS
    assert found.overall.tolist() == pytest.approx(LEVELS, abs=0.02)
    assert bool(((found.overall - torch.tensor(LEVELS)).abs() < 3 * found.error).all())


def test_few_draws_do_not_make_intervals_narrow(gaussian):
    """The quantiles of 5 draws by interpolation hold the truth too rarely; ranks do not."""
    truth, draws, *_ = gaussian
    five = draws[:5]
    assert coverage(five, truth).overall.tolist() == pytest.approx(LEVELS, abs=0.02)
    lower, upper = five.quantile(0.1, dim=0), five.quantile(0.9, dim=0)
    assert float(interval_coverage(lower, upper, truth, 0.8).overall) < 0.65


def test_ranks_are_uniform_for_exact_draws_and_not_for_others(gaussian):
    truth, draws, mean, _ = gaussian
    one = rank_transform(draws, truth)[:, 0, 0].numpy()  # pixels of an image are correlated, images are not
    assert stats.kstest(one, "uniform").pvalue > 0.05
    narrow = mean + 0.5 * (draws - mean)
    assert stats.kstest(rank_transform(narrow, truth)[:, 0, 0].numpy(), "uniform").pvalue < 1e-6
    assert float(coverage(narrow, truth).overall[1]) < 0.6


def test_ranks_by_hand():
    draws = torch.tensor([1.0, 2.0, 2.0, math.nan, 5.0]).view(5, 1, 1)
    for seed in range(5):
        u = torch.rand((1, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for value, below, equal in ((0.0, 0, 0), (2.0, 1, 2), (3.0, 3, 0), (5.0, 3, 1), (9.0, 4, 0)):
            found = rank_transform(draws, torch.tensor([[value]]), seed=seed)
            torch.testing.assert_close(found, (below + (equal + 1) * u) / 5)
    nothing = torch.full((2, 1, 1), math.nan)
    torch.testing.assert_close(rank_transform(nothing, torch.zeros(1, 1), seed=4), u)


@pytest.mark.parametrize("values", [1, 2, 5])
def test_ties_leave_ranks_uniform(values):
    """Truth and draws of a few values, one of them if they are constant."""
    random = torch.Generator().manual_seed(values)
    x = torch.randint(values, (8, 4000, 1), generator=random).double()
    u = rank_transform(x[1:], x[0])
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.05
    assert coverage(x[1:], x[0]).overall.tolist() == pytest.approx(LEVELS, abs=0.02)


def test_share_agrees_with_counting():
    rng = np.random.default_rng(0)
    truth, draws, inside = rng.normal(size=(3, 4)), rng.normal(size=(9, 3, 4)), rng.random((3, 4)) < 0.6
    inside[:, 0] = True
    u = rank_transform(draws, truth, seed=7).numpy()
    found = coverage(draws, truth, (0.3, 0.7), inside=torch.from_numpy(inside), seed=7)
    total = np.zeros(2)
    for b in range(3):
        for k, p in enumerate((0.3, 0.7)):
            hits = [abs(u[b, i] - 0.5) <= p / 2 for i in range(4) if inside[b, i]]
            assert found.share[b, k].item() == pytest.approx(np.mean(hits))
            total[k] += sum(hits)
    np.testing.assert_array_equal(found.count, inside.sum(1))
    np.testing.assert_allclose(found.overall, total / inside.sum())


def test_the_error_is_that_of_independent_images(gaussian):
    """Copies of a pixel add nothing: the error stays that of the images, and agrees with its scatter."""
    truth, draws, *_ = gaussian
    truth, draws = truth[:, :1, :1].repeat(1, 8, 8), draws[:, :, :1, :1].repeat(1, 1, 8, 8)
    within = torch.rand((4000, 1), dtype=torch.float64) < 0.8
    lower = torch.where(within[..., None], truth - 1, truth + 1)
    found = interval_coverage(lower, truth + 2, truth, 0.8)
    p = float(within.double().mean())
    assert float(found.error) == pytest.approx(math.sqrt(p * (1 - p) / 3999), rel=1e-9)
    assert interval_coverage(lower[:1], truth[:1] + 2, truth[:1], 0.8).error.isnan().all()


def test_intervals_hold_their_ends():
    truth = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    found = interval_coverage(torch.full_like(truth, 1.0), torch.full_like(truth, 2.0), truth, 0.5)
    assert found.share.item() == 0.5 and found.levels == (0.5,)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_gaussian_pixels(gaussian, factor):
    truth, _, mean, std = gaussian
    found = gaussian_coverage(mean, factor * std, truth, (0.95,)).overall
    assert float(found) == pytest.approx(math.erf(factor * 1.959964 / math.sqrt(2)), abs=0.02)


def test_gaussian_pixels_of_a_standard_deviation_of_few_draws(gaussian):
    truth, draws, mean, _ = gaussian
    std = (draws[:4] - mean).square().mean(0).sqrt()
    exact = gaussian_coverage(mean, std, truth, draws=4).overall
    assert exact.tolist() == pytest.approx(LEVELS, abs=0.02)
    assert float(gaussian_coverage(mean, std, truth, (0.95,)).overall) < 0.9


def test_what_is_not_predicted_does_not_count():
    """A sample whose chains have all diverged neither confirms nor denies anything."""
    truth, generator = torch.zeros(3, 4), torch.Generator().manual_seed(0)
    draws = torch.randn(9, 3, 4, generator=generator)
    whole = coverage(draws, truth)
    draws[:, 1], draws[:4, 2] = math.nan, math.nan
    found = coverage(draws, truth)
    assert found.count.tolist() == [4, 0, 4] and bool(found.share[1].isnan().all())
    assert torch.equal(found.share[0], whole.share[0])
    assert torch.equal(found.overall, found.share[[0, 2]].mean(0))
    assert torch.allclose(found.error, found.share[[0, 2]].std(0) / 2**0.5)
    lower = torch.tensor([[-1.0], [math.nan], [1.0]]).expand(3, 4)
    for one in (interval_coverage(lower, lower + 2, truth, 0.5), gaussian_coverage(lower, 0 * lower, truth)):
        assert one.count.tolist() == [4, 0, 4]
    assert interval_coverage(lower, lower + 2, truth, 0.5).overall.item() == 0.5


def test_pixels_outside_do_not_count():
    truth = torch.tensor([[[0.0, 3.0], [0.0, 0.0]]])
    inside = torch.tensor([[[True, True], [False, False]]])
    zero, one = torch.zeros_like(truth), torch.ones_like(truth)
    assert gaussian_coverage(zero, one, truth, [0.9], inside=inside).share.item() == 0.5
    with pytest.raises(ValueError, match="inside must have a pixel in every image, got 1 images without"):
        gaussian_coverage(zero, one, truth, [0.9], inside=~(inside | True))


def test_bad_input():
    truth, draws = torch.zeros(2, 3), torch.zeros(5, 2, 3)
    with pytest.raises(ValueError, match=r"draws must have the shape .*\(S, 2, 3\).*got \(5, 3, 2\)"):
        coverage(draws.transpose(1, 2), truth)
    with pytest.raises(ValueError, match=r"S of at least 1, got \(0, 2, 3\)"):
        coverage(draws[:0], truth)
    with pytest.raises(TypeError, match=r"draws must be real, got complex numbers"):
        coverage(draws.cfloat(), truth)
    with pytest.raises(TypeError, match=r"truth must be an ODL element, a tensor or an array of numbers"):
        coverage(draws, truth.bool())
    with pytest.raises(ValueError, match="truth must be finite, got 6"):
        coverage(draws, truth / 0)
    with pytest.raises(ValueError, match=r"truth must have the shape \(B, \*shape\)"):
        coverage(draws[:, 0], truth[0])
    for levels in ((), (0.0,), (0.5, 1.0)):
        with pytest.raises(ValueError, match="levels must be probabilities between 0 and 1"):
            coverage(draws, truth, levels)
    with pytest.raises(
        ValueError, match=r"inside must be a boolean tensor of the shape \(2, 3\), got torch\.float32"
    ):
        coverage(draws, truth, inside=truth)
    with pytest.raises(ValueError, match="upper must not be below lower, got 6 pixels"):
        interval_coverage(truth + 1, truth, truth, 0.5)
    with pytest.raises(ValueError, match=r"std must have the shape of truth, \(2, 3\), got \(2, 1\)"):
        gaussian_coverage(truth, truth[:, :1], truth)
    with pytest.raises(ValueError, match="levels must be probabilities"):
        interval_coverage(truth, truth, truth, 1.5)
