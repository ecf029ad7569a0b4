"""Samples of p(x, z | y): the Gaussian closed form, one nonlinear case by quadrature, bad input."""

import pytest
import torch

from genreg import GaussianFidelity, JointPrior, reconstruct, to_torch
from genreg.sampling import gibbs

from .test_structured_prior import SIGMA, dense, structured


def moments(A, G, y, P):
    """Mean and covariance of (x, z) given y, for a mean W z + b and a precision P that do not depend on z."""
    M, eye = dense(A), torch.eye(3, dtype=torch.float64)
    b = G.module(0 * eye[:1]).flatten(1)[0]
    W = (G.module(eye).flatten(1) - b).T
    top = torch.cat((M.T @ M / SIGMA**2 + P, -P @ W), 1)
    precision = torch.cat((top, torch.cat((-W.T @ P, W.T @ P @ W + eye), 1)))
    right = torch.cat((M.T @ y / SIGMA**2 + P @ b, -W.T @ P @ b))
    return torch.linalg.solve(precision, right), torch.linalg.inv(precision)


@pytest.mark.parametrize("kind", ["structured", "isotropic"])
def test_the_gaussian_case(A, X, y, kind):
    G = structured(X)
    prior = JointPrior(G, None if kind == "structured" else 5.0)
    fidelity = GaussianFidelity(A, y[:2], SIGMA)
    z = torch.zeros(2, 3, dtype=torch.float64)
    found = gibbs(prior, fidelity, z, draws=5, burn_in=30, thin=2, chains=80, step=0.1, progress=False)
    assert found.x.shape == (5, 80, 2, 4, 5) and found.z.shape == (5, 80, 2, 3)
    for share in found.acceptance.values():
        assert bool(((share.mean(0) > 0.45) & (share.mean(0) < 0.7)).all())
    P = prior.decode(z[:1]).precision.to_dense().reshape(20, 20)
    draws = torch.cat((found.x.flatten(3), found.z), -1)  # (draws, chains, B, 23)
    for k in range(2):
        mean, covariance = moments(A, G, y[k], P)
        std = covariance.diagonal().sqrt()
        error = (draws[:, :, k].mean((0, 1)) - mean) / std
        # the chains are independent: the scatter of their means tells how exact the mean is
        spread = draws[:, :, k].mean(0).std(0) / std / 80**0.5
        assert bool((error.abs() < 4.5 * spread).all()) and float(spread.max()) < 0.2
        scores = (draws[:, :, k] - mean) / std
        squares = scores.square().mean(0)
        assert bool(((squares.mean(0) - 1).abs() < 4.5 * squares.std(0) / 80**0.5).all())
    assert torch.allclose(found.mean, found.x.mean((0, 1)))
    assert torch.allclose(found.std, found.x.flatten(0, 1).std(0))


def test_the_marginal_of_z_by_quadrature(A, X, y):
    """One latent direction: p(z | y) is the normal density of y with mean A μ(z) and covariance σ² I + A Λ(z)⁻¹ Aᵀ."""
    G = structured(X, slope=0.4)
    with torch.no_grad():
        G.model.linear.weight[:, 1:] = 0
        G.model.directions[1:] = 0  # z_2 and z_3 remain N(0, 1)
    M = dense(A)
    grid = torch.linspace(-4, 4, 401, dtype=torch.float64)
    decoded = G.decode(torch.nn.functional.pad(grid[:, None], (0, 2)))
    covariance = (
        SIGMA**2 * torch.eye(12, dtype=torch.float64)
        + M @ torch.linalg.inv(decoded.precision.to_dense()) @ M.T
    )
    log_p = torch.distributions.MultivariateNormal(decoded.mean.flatten(1) @ M.T, covariance).log_prob(y[0])
    p = torch.softmax(log_p - 0.5 * grid.square(), 0)
    mean = (p * grid).sum()
    variance = (p * (grid - mean).square()).sum()
    fidelity = GaussianFidelity(A, y[:1], SIGMA)
    found = gibbs(
        JointPrior(G),
        fidelity,
        torch.zeros(1, 3, dtype=torch.float64),
        draws=5,
        burn_in=30,
        thin=2,
        chains=100,
        step=0.1,
        progress=False,
    )
    z = found.z[:, :, 0, 0]
    assert abs(z.mean() - mean) < 4 * z.mean(0).std() / 100**0.5
    squares = (z - mean).square().mean(0)
    assert abs(squares.mean() - variance) < 4 * squares.std() / 100**0.5
    assert float(found.z[..., 1:].std()) == pytest.approx(1.0, abs=0.2)
    expected = found.log_density[-1, 0]
    x, z = found.x[-1, 0], found.z[-1, 0]
    residual = to_torch(A)(x) - y[:1]
    assert torch.allclose(
        expected, -residual.square().sum(1) / (2 * SIGMA**2) - to_torch(JointPrior(G))((x, z))
    )


def test_seeds_chains_and_kinds_of_steps(A, X, y):
    prior, fidelity = JointPrior(structured(X, slope=0.1)), GaussianFidelity(A, y, SIGMA)
    z = reconstruct(A, y, prior, noise_std=SIGMA, lam=1.0, tol=1e-2, progress=False).blocks["z"]
    settings = {"draws": 3, "burn_in": 2, "chains": 2, "progress": False}
    found = gibbs(prior, fidelity, z, **settings)
    again = gibbs(prior, fidelity, z, **settings)
    other = gibbs(prior, fidelity, z, seed=1, **settings)
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)
    plain = gibbs(prior, fidelity, z, interweave=False, **settings)
    assert set(plain.acceptance) == {"image"} and set(found.acceptance) == {"image", "white"}
    several = JointPrior(structured(X), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert bool(torch.isfinite(gibbs(several, fidelity, z, **settings).x).all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws must be a positive integer, got 0"),
        ({"burn_in": -1}, ValueError, "burn_in must be a non-negative integer, got -1"),
        ({"chains": 1.5}, TypeError, "chains must be an integer, got 1.5"),
        ({"step": 0.0}, ValueError, "step must be positive and finite, got 0.0"),
        ({"prior": 3}, TypeError, "prior must be a JointPrior, got int"),
        ({"fidelity": 3}, TypeError, "fidelity must be a GaussianFidelity, got int"),
        ({"z": torch.zeros(3, 2)}, ValueError, r"`z` must have shape \(\*batch, \*\(3,\)\), got \(3, 2\)"),
    ],
)
def test_bad_input(A, X, y, change, error, message):
    given = {
        "prior": JointPrior(structured(X)),
        "fidelity": GaussianFidelity(A, y, SIGMA),
        "z": torch.zeros(3, 3, dtype=torch.float64),
    } | change
    with pytest.raises(error, match=message):
        gibbs(**given, progress=False)
