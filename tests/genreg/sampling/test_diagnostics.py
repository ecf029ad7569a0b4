"""Effective sample sizes of autoregressive chains, R-hat of shifted ones, stopped chains, brute force."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import signal, stats

from genreg.sampling.diagnostics import (
    Mixing,
    autocorrelation,
    diagnose,
    effective_sample_size,
    monte_carlo_error,
    rank_normalised_rhat,
)
from genreg.sampling.figures import plot_traces


def autoregressive(phi, draws=4000, chains=4, trailing=(), seed=0):
    """Stationary chains x⁺ = φ x + sqrt(1 - φ²) ξ of variance 1: ρ_t = φᵗ, τ = (1 + φ) / (1 - φ)."""
    noise = np.random.default_rng(seed).standard_normal((draws, chains, *trailing))
    noise[1:] *= math.sqrt(1 - phi**2)
    return signal.lfilter([1.0], [1.0, -phi], noise, axis=0)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.5])
def test_effective_sample_size_of_autoregressive_chains(phi):
    x = autoregressive(phi, trailing=(6,))
    expected = x.shape[0] * x.shape[1] * (1 - phi) / (1 + phi)
    found = effective_sample_size(x, "mean")
    assert found.shape == (6,)
    assert found.mean() == pytest.approx(expected, rel=0.06)
    assert effective_sample_size(x).mean() == pytest.approx(expected, rel=0.06)
    np.testing.assert_allclose(monte_carlo_error(x), x.std((0, 1), ddof=1) / np.sqrt(found), rtol=1e-12)


def test_the_error_is_that_of_the_mean():
    """500 repetitions of a short run: the scatter of their means is the error that each of them states."""
    x = autoregressive(0.8, draws=400, trailing=(500,), seed=2)
    stated = np.sqrt(np.square(monte_carlo_error(x)).mean())
    assert stated == pytest.approx(x.mean((0, 1)).std(), rel=0.1)


def test_tails_of_independent_draws():
    """An indicator of independent draws is independent, and so are its draws worth their number."""
    x = autoregressive(0.0, trailing=(6,), seed=1)
    assert effective_sample_size(x, "tail").mean() == pytest.approx(16000, rel=0.06)
    slow = x.copy()
    slow[:, :2] *= 3  # chains of another spread: the bulk does not see it, the tails do
    assert effective_sample_size(slow).min() > 10000
    assert effective_sample_size(slow, "tail").max() < 200
    assert rank_normalised_rhat(slow).min() > 1.05


def split_rhat(z):
    """R-hat of split chains, ``(draws, chains)``, by loops."""
    n = len(z) // 2
    halves = [z[part, c] for c in range(z.shape[1]) for part in (slice(0, n), slice(len(z) - n, None))]
    within = np.mean([half.var(ddof=1) for half in halves])
    between = n * np.var([half.mean() for half in halves], ddof=1)
    return math.sqrt(((n - 1) / n * within + between / n) / within)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_rhat_agrees_with_its_definition(shift):
    x = autoregressive(0.3, draws=300, chains=3, trailing=(2,))
    x[:, 0] += shift
    for k, found in enumerate(rank_normalised_rhat(x)):
        scores = []
        for values in (x[..., k], np.abs(x[..., k] - np.median(x[..., k]))):
            ranks = stats.rankdata(values).reshape(values.shape)
            scores.append(split_rhat(stats.norm.ppf((ranks - 0.375) / (values.size + 0.25))))
        assert found == pytest.approx(max(scores), rel=1e-9)
        assert (found < 1.02) == (shift == 0)


def test_rhat_and_size_see_shifted_chains_and_not_the_scale():
    x = autoregressive(0.5)
    assert rank_normalised_rhat(x) < 1.01
    assert rank_normalised_rhat(np.exp(3 * x)) == pytest.approx(float(rank_normalised_rhat(x)), abs=5e-3)
    assert effective_sample_size(np.exp(3 * x)) == pytest.approx(float(effective_sample_size(x)), rel=1e-9)
    apart = x + np.array([0.0, 0.0, 0.0, 4.0])
    assert rank_normalised_rhat(apart) > 1.2
    assert effective_sample_size(apart) < 20
    drift = x + np.linspace(0, 3, len(x))[:, None]
    assert rank_normalised_rhat(drift) > 1.2


@pytest.mark.parametrize("s", [1e-200, 1e-20, 1e-6, 1e6, 1e200])
def test_no_unit_makes_a_difference(s):
    x = autoregressive(0.7, draws=200, trailing=(2,))
    for f in (*FUNCTIONS[:4], FUNCTIONS[5]):
        np.testing.assert_allclose(f(s * x), f(x), rtol=1e-9)
    np.testing.assert_allclose(monte_carlo_error(s * x), s * monte_carlo_error(x), rtol=1e-9)


def test_autocorrelation_of_autoregressive_chains():
    x = autoregressive(0.8, draws=20000, trailing=(2, 3))
    found = autocorrelation(x, 10)
    assert found.shape == (11, 2, 3)
    np.testing.assert_array_equal(found[0], 1.0)
    np.testing.assert_allclose(found.mean((1, 2)), 0.8 ** np.arange(11), atol=0.02)


def test_autocorrelation_agrees_with_its_definition():
    x = autoregressive(0.5, draws=30, chains=3) + np.array([0.0, 1.0, -2.0])
    n, covariance = len(x), np.zeros(30)
    centred = x - x.mean(0)
    for t in range(n):
        covariance[t] = np.mean([sum(c[: n - t] * c[t:]) / n for c in centred.T])
    between = x.mean(0).var(ddof=1)
    np.testing.assert_allclose(
        autocorrelation(x), (covariance + between) / (covariance[0] + between), atol=1e-12
    )
    one = autocorrelation(x[:, :1], 3)
    c = centred[:, 0]
    np.testing.assert_allclose(one, [sum(c[: n - t] * c[t:]) / sum(c * c) for t in range(4)], atol=1e-12)


FUNCTIONS = [
    effective_sample_size,
    lambda x: effective_sample_size(x, "tail"),
    lambda x: effective_sample_size(x, "mean"),
    rank_normalised_rhat,
    monte_carlo_error,
    lambda x: autocorrelation(x, 5),
]


@pytest.mark.parametrize("f", FUNCTIONS)
def test_stopped_chains_are_left_out_for_their_components_alone(f):
    x = autoregressive(0.5, draws=200, chains=5, trailing=(2, 3))
    hurt = x.copy()
    hurt[150:, 1, 0] = np.nan
    hurt[:, 3, 0, 2] = np.inf
    hurt[10:, :, 1, 1] = np.nan
    found = f(hurt)
    assert found.shape[-2:] == (2, 3)
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(found[..., 0, :2], f(x[:, others, 0, :2]))
    np.testing.assert_array_equal(found[..., 0, 2], f(x[:, [0, 2, 4], 0, 2]))
    assert np.isnan(found[..., 1, 1]).all()
    np.testing.assert_array_equal(found[..., 1, ::2], f(x[..., 1, ::2]))


@pytest.mark.parametrize("f", FUNCTIONS)
def test_one_component_at_a_time_and_tensors(f):
    x = autoregressive(0.5, draws=50, trailing=(2, 2)).astype(np.float32)
    found = f(x)
    for i in range(2):
        for j in range(2):
            np.testing.assert_array_equal(found[..., i, j], f(x[..., i, j]))
    tensor = f(torch.from_numpy(x).requires_grad_())
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy(), found)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_draws_that_never_change_are_worth_nothing(f):
    x = autoregressive(0.5, draws=50, trailing=(2,))
    x[..., 0] = 3.0
    found = f(x)
    assert np.isnan(found[..., 0]).all() and np.isfinite(found[..., 1]).all()


def test_chains_that_stay_at_values_of_their_own():
    x = np.broadcast_to(np.arange(4.0), (50, 4))
    assert rank_normalised_rhat(x) == math.inf
    assert effective_sample_size(x) < 5
    np.testing.assert_array_equal(autocorrelation(x, 4), 1.0)


def test_one_chain_has_a_size_but_no_rhat():
    x = autoregressive(0.5, chains=1)
    assert math.isnan(rank_normalised_rhat(x))
    assert effective_sample_size(x) == pytest.approx(4000 / 3, rel=0.2)


def test_bad_input():
    x = autoregressive(0.5, draws=10)
    with pytest.raises(ValueError, match=r"kind must be one of \['bulk', 'tail', 'mean'\], got 'all'"):
        effective_sample_size(x, "all")
    with pytest.raises(ValueError, match=r"at least 4 draws and a chain, got \(3, 4\)"):
        rank_normalised_rhat(x[:3])
    with pytest.raises(ValueError, match=r"shape \(draws, chains, \.\.\.\).*got \(10,\)"):
        monte_carlo_error(x[:, 0])
    with pytest.raises(ValueError, match=r"and a chain, got \(10, 0\)"):
        effective_sample_size(x[:, :0])
    with pytest.raises(TypeError, match="draws must be real, got complex128"):
        effective_sample_size(x + 0j)
    for lag, error in ((-1, ValueError), (10, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"max_lag must be an integer( from 0 to 9)?, got {lag}"):
            autocorrelation(x, lag)


def some_samples(draws=1500, batch=8, chains=4, screened=False):
    """One image for each kind of mixing."""
    x = torch.from_numpy(autoregressive(0.3, draws, chains, (batch, 4)))
    slow = autoregressive(0.0, draws // 30, chains).reshape(2, -1, chains)
    slow -= slow.mean(1, keepdims=True)  # halves of chains about one mean, each value in 30 draws
    x[:, :, 1, 0] = torch.from_numpy(np.repeat(slow.reshape(-1, chains), 30, 0))
    x[40:, 1:, 2] = torch.nan
    x[:100, 0, 3] = torch.inf
    x[:, 0, 4, 1] += 5.0
    x[:, :, 5] = x[:1, :, 5, :].mean(1, keepdim=True)
    x[-1:, :, 6] = torch.nan
    x[:, 2, 7] = x[:1, 2, 7].clone()
    acceptance = torch.full((chains, batch), 0.5, dtype=torch.float64)
    acceptance[0] = 0.9
    return SimpleNamespace(z=x[..., :3], energy=x[..., 3], acceptance=acceptance, screened=screened)


def test_diagnose_tells_the_kinds_of_mixing_apart():
    samples = some_samples()
    found = diagnose(samples)
    kinds = [Mixing(int(code)) for code in found.status]
    assert kinds == [
        Mixing.MIXED,
        Mixing.FEW_SAMPLES,
        Mixing.ONE_CHAIN,
        Mixing.CHAINS_STOPPED,
        Mixing.NOT_MIXED,
        Mixing.NOT_MOVED,
        Mixing.NO_CHAIN,
        Mixing.NOT_MOVED,
    ]
    assert found.stopped.tolist() == [0, 0, 3, 1, 0, 0, 4, 0]
    assert found.still.tolist() == [0, 0, 0, 0, 0, 4, 0, 1]
    np.testing.assert_allclose(found.acceptance, [0.6, 0.6, 0.9, 0.5, 0.6, 0.6, math.nan, 0.6], rtol=1e-12)
    assert found.rhat.shape == found.ess.shape == found.tail_ess.shape == (8, 4)
    first = samples.z[:, :, 0]
    torch.testing.assert_close(found.rhat[0, :3], rank_normalised_rhat(first))
    torch.testing.assert_close(found.tail_ess[0, 3], effective_sample_size(samples.energy[:, :, 0], "tail"))
    assert found.worst_rhat[0] == found.rhat[0].max() and found.worst_ess[0] <= found.ess[0].min()
    assert sorted(found.ess[0].tolist())[1] <= found.median_ess[0] <= sorted(found.ess[0].tolist())[2]
    assert found.median_rhat.shape == (8,)
    lines = found.advice().splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("1 x MIXED: ") and lines[-2].startswith("1 x NO_CHAIN: No chain has draws")
    assert "init='screened'" in lines[-1]


def test_advice_does_not_recommend_what_was_done():
    samples = some_samples(draws=180, screened=True)
    assert "screened" not in diagnose(samples).advice()
    samples.screened = False
    assert "screened" in diagnose(samples).advice()
    samples.z, samples.energy = samples.z[:, :, :1], samples.energy[:, :, :1]
    samples.acceptance = samples.acceptance[:, :1]
    assert "screened" not in diagnose(samples).advice()  # they have met


def test_what_cannot_be_computed_is_no_sign_of_mixing():
    found = diagnose(some_samples(draws=180))
    unknown = dataclasses.replace(found, rhat=torch.full_like(found.rhat, math.nan))
    assert Mixing(int(unknown.status[0])) == Mixing.NOT_MIXED


def test_traces_are_drawn():
    samples = some_samples(draws=180)
    figure = plot_traces(samples, (0, 2, 6), max_lag=10)
    top, bottom = np.array(figure.axes).reshape(2, 3)
    np.testing.assert_array_equal(top[0].lines[1].get_ydata(), samples.energy[:, 1, 0])
    energy = bottom[0].lines[-1].get_ydata()
    np.testing.assert_allclose(energy, autocorrelation(samples.energy[:, :, 0], 10))
    assert [ax.get_title() for ax in top] == ["image 0", "image 2", "image 6"]
    assert len(plot_traces(samples).axes[1].lines[0].get_ydata()) == 46
    figure.draw_without_rendering()
    for index in ((), (8,), (-1,)):
        with pytest.raises(ValueError, match="index must have images from 0 to 7"):
            plot_traces(samples, index)


@pytest.fixture(scope="module")
def gaussian_posterior():
    """A linear generator and its data: the posterior is Gaussian."""
    import odl

    import genreg
    from genreg.sampling import LatentPosterior, sample

    torch.manual_seed(0)
    X = odl.uniform_discr([0, 0], [1, 1], (3, 4), dtype="float64")
    model = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.Unflatten(1, (3, 4)))
    G = genreg.Generator(model, X, latent_dim=2)
    A = genreg.operators.gaussian_measurements(X, 5, seed=0)
    z = torch.randn(20, 2, dtype=torch.float64)
    truth = G.decode(z).mean
    y = genreg.to_torch(A)(truth) + 0.3 * torch.randn(20, 5, dtype=torch.float64)
    posterior = LatentPosterior(genreg.GaussianFidelity(A, y, noise_std=0.3), G)
    return sample(posterior, chains=4, steps=400, burn_in=100, seed=1, progress=False), truth


def test_chains_of_a_gaussian_posterior_meet(gaussian_posterior):
    samples, _ = gaussian_posterior
    found = diagnose(samples)
    assert found.chains == 4 and not bool(found.stopped.any())
    assert found.worst_rhat.max() < 1.05 and found.median_rhat.median() < 1.01
    assert found.worst_ess.min() > 100  # of 1200
    torch.testing.assert_close(found.acceptance, samples.acceptance.mean(0))
    assert len(plot_traces(samples, (3, 19)).axes) == 4


def test_intervals_of_samples_cover_what_they_promise(gaussian_posterior):
    """Twenty images with two degrees of freedom each: the standard error says how near is near."""
    from genreg.evaluation import coverage, interval_coverage

    samples, truth = gaussian_posterior
    images = torch.stack([samples.images(k) for k in range(20)], 1)
    found = coverage(images, truth)
    assert bool(((found.overall - torch.tensor(found.levels)).abs() < 3 * found.error).all())
    by_quantiles = interval_coverage(*samples.interval(0.8), truth, 0.8)
    torch.testing.assert_close(by_quantiles.overall[0], found.overall[1], atol=0.02, rtol=0)
