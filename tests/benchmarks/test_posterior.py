"""Images of the benchmarks of posterior sampling: the model with white noise in the image, budgets of evaluations."""

import pytest
import sampling_starts
import torch
from _digits import generator, measure, of_generator, operator, posterior
from posterior_coverage import Marginal

from genreg.sampling import MALA, sample


def test_images_given_z_and_data_have_the_conditional_mean_and_covariance():
    """With M x = y - noise, x = g + γ ε: the mean g + K (y - M g) and covariance γ² (I - K M), K = γ² Mᵀ C⁻¹."""
    x = torch.rand((2, 28, 28), generator=torch.Generator().manual_seed(0))
    problem = measure(x, "compressed sensing", 5, 0.3)
    gamma = 0.2
    marginal = Marginal(problem, gamma)
    g = 0.5 * torch.ones(28, 28)
    draws = marginal.images(g.expand(2000, 28, 28), 1, torch.Generator().manual_seed(1)).flatten(1)
    M = problem.A.matrix
    K = gamma**2 * torch.linalg.solve(M @ M.T * gamma**2 + 0.09 * torch.eye(5), M).T
    mean = g.flatten() + K @ (problem.y[1] - M @ g.flatten())
    error = gamma / 2000**0.5
    assert float((draws.mean(0) - mean).square().mean().sqrt()) == pytest.approx(error, rel=0.15)
    assert float((draws.mean(0) - g.flatten()).square().mean().sqrt()) > 3 * error
    seen, expected = torch.cov((draws @ M.T).T), gamma**2 * M @ (torch.eye(784) - K @ M) @ M.T
    torch.testing.assert_close(seen, expected, rtol=0, atol=0.15 * float(expected.diagonal().mean()))
    assert float(draws.var(0).mean()) == pytest.approx(
        gamma**2 * (1 - float((K * M.T).sum()) / 784), rel=0.02
    )


def test_whitened_data_have_white_noise():
    zero = torch.zeros(2000, 28, 28)
    random = torch.Generator().manual_seed(2)
    problem = measure(zero + 0.2 * torch.randn(zero.shape, generator=random), "compressed sensing", 6, 0.3)
    white = Marginal(problem, 0.2).problem
    torch.testing.assert_close(torch.cov(white.y.T), torch.eye(6), rtol=0, atol=0.15)
    L = torch.linalg.cholesky(0.09 * torch.eye(6) + 0.04 * problem.A.matrix @ problem.A.matrix.T)
    torch.testing.assert_close(L @ white.A.matrix, problem.A.matrix, rtol=1e-4, atol=1e-6)


def test_pixels_known_are_nested_and_of_the_number_asked_for():
    few, many = (operator("inpainting", size).keep for size in (25, 200))
    assert int(few.sum()) == 25 and int(many.sum()) == 200
    assert bool((many | ~few).all())


@pytest.mark.parametrize("budget", [60, 150])
def test_turns_use_up_the_evaluations(budget):
    G = generator("mnist-vae-dense")
    target = posterior(measure(of_generator(G, 1)[1], "inpainting", 50, 0.1), G)
    steps = sampling_starts.turns(budget)
    samples = sample(
        target, MALA(), chains=1, steps=steps, burn_in=steps // 2, init="prior", seed=0, progress=False
    )
    assert budget - 12 < int(samples.evaluations.max()) <= budget
