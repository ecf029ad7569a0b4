"""What the benchmark of discriminator weighting computes: problems, scores of draws, paired differences."""

import math

import discriminator_weighting as benchmark
import odl
import pytest
import torch
from _digits import SPACE
from _discriminator_report import paired
from torch import nn

from genreg import GaussianFidelity, Generator, sampling
from genreg.operators import to_torch


class Flat(nn.Module):
    """Images of one grey value, z."""

    latent_dim = 1

    def forward(self, z):
        return z[:, :, None].expand(-1, 12, 12)


def test_problems_measure_what_they_say():
    x = torch.rand(50, *SPACE.shape)
    for problem in benchmark.PROBLEMS:
        A, y = problem.data(x)
        assert y[0].numel() == problem.m
        noise = y - to_torch(A)(x)
        assert noise.std().item() == pytest.approx(problem.sigma, rel=0.1)
        assert problem.kind in str(problem) and ", ," not in str(problem)


def test_scores_of_draws():
    X = odl.rn((12, 12))
    G = Generator(Flat(), X)
    x = torch.rand(3, 12, 12, dtype=torch.float64)
    posterior = sampling.LatentPosterior(GaussianFidelity(odl.IdentityOperator(X), x, 3.0), G)
    samples = sampling.sample(posterior, chains=5, steps=16, init="prior", seed=0, progress=False)
    found = benchmark.score(samples, x)
    images = posterior.decode(samples.z)
    error = 1000 * (images - x).square().mean((0, 1, 3, 4))
    torch.testing.assert_close(found["draw_mse"], error, rtol=0.05, atol=0)
    torch.testing.assert_close(found["mean_mse"], 1000 * (images.mean((0, 1)) - x).square().mean((1, 2)))
    assert found["size"].tolist() == [1.0] * 3 and found["images"].shape == (3, 12, 12)

    best = samples.reweighted(lambda z: -1e6 * (z[:, 0] - 0.5).square())
    picked = benchmark.score(best, x)["draws"]
    nearest = samples.z[..., 0].flatten(0, 1)
    nearest = nearest.gather(0, (nearest - 0.5).abs().argmin(0, keepdim=True))[0]
    torch.testing.assert_close(picked[:, 0, 0], nearest, rtol=0, atol=1e-2)


def test_differences_are_paired():
    plain = {
        key: torch.tensor([1.0, 5.0, 9.0, 20.0]) for key in ("mean_mse", "mean_ssim", "draw_mse", "draw_ssim")
    }
    other = {key: value + torch.tensor([1.0, 2.0, 1.0, 2.0]) for key, value in plain.items()}
    assert paired(other, plain, "mean_mse") == pytest.approx((1.5, math.sqrt(1 / 3) / 2))
    extra = {"rhat": torch.ones(4), "size": torch.ones(4), "evaluations": 7.0}
    results = {"G": {benchmark.PROBLEMS[0]: {"plain": plain | extra, "critic": other | extra}}}
    assert "| critic | +1.50 ± 0.29 | +1.500 ± 0.289 |" in benchmark.table(results)
    rows = benchmark.numbers(results, {"G": {"critic": {"accuracy": 0.56789}}})
    assert rows["discriminators"] == {"G": {"critic": {"accuracy": 0.5679}}}
    assert rows["rows"][1]["draw_ssim_difference"] == [1.5, 0.2887] and rows["rows"][0]["draw_mse"] == 8.75
