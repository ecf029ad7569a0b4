"""Samplers and what is made of their draws do not depend on units: of images and data, of lengths, of k-space."""

import math

import numpy as np
import odl
import pytest
import torch
from odl.applications import tomo
from torch import nn

from genreg import GaussianFidelity, Generator, JointPrior, PoissonFidelity, latent, to_torch
from genreg.adaptive import (
    Candidates,
    EpsilonGreedy,
    InformationGain,
    UpperConfidenceBound,
    adaptive_measurements,
)
from genreg.evaluation import coverage, fit_range, nrmse, psnr, sparsification, ssim
from genreg.operators import fourier_sampling, gaussian_measurements, ray_transform
from genreg.sampling import HMC, MALA, PCN, SKROCK, ULA, ChainStatus, LatentPosterior, gibbs, langevin, sample

from ..conftest import LinearModel
from ..regularisers.test_structured_prior import StructuredModel

SCALES = [1e-6, 1e6]
SIGMA = 0.1


class Bent(LinearModel):
    """Images that are not linear in z."""

    def decode(self, z):
        x = self.linear(z)
        return (x + 0.3 * torch.sin(2 * x)).unflatten(1, self.shape)


class Scaled(nn.Module):
    """A model in another unit: its images times s, and all that belongs to them."""

    def __init__(self, model, s):
        super().__init__()
        self.inner, self.s = model, s
        self.latent_dim, self.log_gamma = model.latent_dim, model.log_gamma + math.log(s)
        if isinstance(model, StructuredModel):
            self.config, self.decode_factor = model.config, self.factor

    def decode(self, z):
        return self.s * self.inner.decode(z)

    def encode(self, x):
        return self.inner.encode(x / self.s)

    def factor(self, z):
        log_diag, weights = self.inner.decode_factor(z)
        return log_diag - math.log(self.s), weights / self.s


def in_units(X, s, model=Bent):
    return Generator(Scaled(model(tuple(X.shape)), s), X)


def truth(X, dtype=torch.float64):
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Bent(tuple(X.shape)).decode(z).detach().to(dtype)


def noisy(A, x):
    y = to_torch(A)(x)
    return y + SIGMA * torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)


def the_same(found, expected):
    """Results, tensor by tensor: integers equal, numbers to 1e-3 of the largest."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if a.is_floating_point():
            assert bool(torch.isfinite(a).all())
            assert float((a - b).abs().max()) <= 1e-3 * float(b.abs().max())
        else:
            assert torch.equal(a, b)


def results(found, s):
    """What a sampler found, with images over s."""
    interval = torch.stack(found.interval(0.8))
    parts = found.z, found.energy, found.status, found.acceptance, found.step
    return *parts, found.mean / s, found.std / s, interval / s


OPTIONS = {"chains": 2, "steps": 16, "seed": 0, "progress": False}
RUNS = [
    (HMC(), "map"),
    (MALA(), "screened"),
    (PCN(), "posterior"),
    (ULA(), "prior"),
    (SKROCK(stages=3), "map"),
]


@pytest.mark.parametrize(("kernel", "init"), RUNS, ids=lambda run: str(run).partition("(")[0])
def test_units_of_images_and_data(X, A, kernel, init):
    y = noisy(A, truth(X))

    def run(s):
        posterior = LatentPosterior(GaussianFidelity(A, s * y, s * SIGMA), in_units(X, s))
        return results(sample(posterior, kernel, init=init, **OPTIONS), s)

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


@pytest.mark.parametrize("adjusted", [True, False])
def test_units_of_complex_k_space(X, adjusted):
    A = fourier_sampling(X, np.ones(X.shape, dtype=bool))
    y = noisy(A, truth(X))
    sigma = torch.linspace(0.5, 2, 20, dtype=torch.float64) * SIGMA

    def run(s):
        posterior = LatentPosterior(GaussianFidelity(A, s * y, s * sigma), in_units(X, s))
        return results(langevin(posterior, adjusted=adjusted, **OPTIONS), s)

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_units_of_length():
    """Lengths times s with attenuations over s: the same sinogram."""

    def run(s):
        X = odl.uniform_discr([-s, -s], [s, s], (6, 6))
        rays = odl.uniform_partition(0, math.pi, 5), odl.uniform_partition(-1.5 * s, 1.5 * s, 9)
        A = ray_transform(X, tomo.Parallel2dGeometry(*rays), cache=False)
        y = noisy(A, truth(X) / s)
        posterior = LatentPosterior(GaussianFidelity(A, y, SIGMA), in_units(X, 1 / s))
        return results(sample(posterior, MALA(), **OPTIONS), 1 / s)

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_counts_of_images_in_other_units(X):
    # a detector that knows the unit
    counts = torch.poisson(50.0 + 0 * truth(X), generator=torch.Generator().manual_seed(0))

    def run(s):
        fidelity = PoissonFidelity(odl.ScalingOperator(X, 1 / s), counts, background=50.0)
        return results(sample(LatentPosterior(fidelity, in_units(X, s)), MALA(), **OPTIONS), s)

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_other_priors_and_importance_weights(X, A):
    y = noisy(A, truth(X))

    def run(s):
        G = in_units(X, s)
        prior = 0.5 * odl.functionals.L2NormSquared(G.domain) + (0.1 / s) * latent.ImageVariation(G, 0.01 * s)
        found = sample(
            LatentPosterior(GaussianFidelity(A, s * y, s * SIGMA), G, latent=prior), MALA(), **OPTIONS
        )
        moved = found.reweighted(to_torch((0.2 / s) * latent.ImageVariation(G, 0.01 * s)))
        return found.z, found.status, moved.weights, moved.weighted_size, moved.mean / s, moved.std / s

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


@pytest.mark.parametrize("model", [StructuredModel, Bent])
def test_images_and_latent_vectors_together(X, A, model):
    y, z = noisy(A, truth(X)), torch.zeros(3, 3, dtype=torch.float64)
    settings = {"draws": 2, "burn_in": 3, "chains": 2, "progress": False}

    def run(s):
        prior = JointPrior(in_units(X, s, model))
        found = gibbs(prior, GaussianFidelity(A, s * y, s * SIGMA), z, **settings)
        accepted = torch.stack(list(found.acceptance.values()))
        return found.z, found.x / s, found.status, accepted, found.mean / s, found.std / s

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


@pytest.mark.parametrize("policy", [InformationGain(), EpsilonGreedy(0.3), UpperConfidenceBound])
def test_what_is_measured_next(X, A, policy):
    y = noisy(A, truth(X))

    def run(s):
        own = policy(2.0 / s) if isinstance(policy, type) else policy  # a variance per grey value
        problem = Candidates(A, s * y, s * SIGMA)
        found = adaptive_measurements(problem, own, 1, 3, G=in_units(X, s), kernel=MALA(), **OPTIONS)
        return found.chosen, found.status, found.mean / s, found.std / s, found.best / s

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_scores_of_images_and_draws():
    random = np.random.default_rng(0)
    x, image = random.random((2, 12, 12)), random.random((2, 12, 12))
    draws = torch.from_numpy(random.random((20, 2, 12, 12)))

    def run(s):
        curves = sparsification(s * (image - x), s * draws.std(0), normalise=True)
        ours = {"images": s * image, "reference": s * x}
        covered = coverage(s * draws, s * x)
        scores = psnr(**ours, data_range=s), ssim(**ours, data_range=s), nrmse(**ours)
        return *scores, covered.share, curves.ause, curves.aurg

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_the_nearest_images_in_the_range():
    X = odl.rn((12, 12))
    x = truth(X) + 0.2 * torch.randn(
        3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )

    def run(s):
        fit = fit_range(in_units(X, s), s * x, restarts=1, data_range=s, max_iter=40, progress=False)
        return fit.nrmse, fit.psnr, fit.ssim, fit.l1 / s, fit.converged, fit.encoder_nrmse

    expected = run(1.0)
    for s in SCALES:
        the_same(run(s), expected)


def test_single_precision_has_the_same_moments():
    """Trajectories part in the last digits; what they sample does not."""
    X = odl.uniform_discr([0, 0], [8, 5], (4, 5), dtype="float32")
    A = gaussian_measurements(X, 12, seed=0)
    y = noisy(A, truth(X, torch.float32))

    def run(s):
        posterior = LatentPosterior(GaussianFidelity(A, s * y, s * SIGMA), in_units(X, s))
        found = sample(posterior, HMC(leapfrog=4), chains=20, steps=50, burn_in=20, seed=0, progress=False)
        assert bool((found.status == ChainStatus.COMPLETED).all())
        return found.z.flatten(0, 1)

    expected = run(1.0)
    for s in SCALES:
        z = run(s)  # 600 draws, of which a mean is exact to about 0.07 standard deviations
        assert float(((z.mean(0) - expected.mean(0)) / expected.std(0)).abs().max()) < 0.35
        assert float((z.std(0) / expected.std(0)).log().abs().max()) < 0.25
