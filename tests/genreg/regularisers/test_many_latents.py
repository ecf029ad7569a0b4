"""Latent vectors of many dimensions: closed forms, and no matrix of their size."""

import odl
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genreg import (
    Generator,
    HardConstraint,
    JointPrior,
    RelaxedConstraint,
    SparseDeviation,
    reconstruct,
    solvers,
)
from genreg.operators import mask, to_torch
from genreg.solvers import Status

SHAPE, CHANNELS = (9, 10), 3
LATENTS = CHANNELS * 90
SIGMA, LAM, MU, BETA = 0.2, 0.7, 0.3, 5.0


class Local(nn.Module):
    """The channels of a latent image, moved and added; the encoder spreads an image over them."""

    latent_dim = LATENTS

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([1.0, -0.6, 0.3], dtype=torch.float64)[:, None, None])
        self.log_gamma = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def decode(self, z):
        channels = self.factors * z.unflatten(1, (CHANNELS, *SHAPE))
        return sum(torch.roll(channels[:, k], (k, 2 * k), (1, 2)) for k in range(CHANNELS))

    def encode(self, x):
        moved = torch.stack([torch.roll(x, (-k, -2 * k), (1, 2)) for k in range(CHANNELS)], 1)
        return (0.5 * self.factors * moved).flatten(1)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor for one sample that was made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                self.numel = max(self.numel, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.fixture(name="problem", scope="module")
def many_latents():
    """Operator, generator, data, and their matrices."""
    X = odl.uniform_discr([0, 0], SHAPE, SHAPE)
    keep = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.6
    A, G = mask(X, keep), Generator(Local(), X)
    W = G.module(torch.eye(LATENTS, dtype=torch.float64)).flatten(1).T.detach()
    M = to_torch(A)(torch.eye(90, dtype=torch.float64).unflatten(1, SHAPE)).flatten(1).T
    y = torch.randn(2, *A.range.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return A, G, y, M, W


def hard(M, W, y):
    eye = torch.eye(LATENTS, dtype=torch.float64)
    z = torch.linalg.solve((M @ W).T @ (M @ W) / SIGMA**2 + 2 * LAM * eye, (M @ W).T @ y.T / SIGMA**2)
    return (W @ z).T


def near(M, W, y, of_deviation, of_latent):
    """The image x that minimises ‖Mx - y‖²/(2σ²) + a ‖x - Wz‖² + b ‖z‖²."""
    eye = torch.eye(len(W), dtype=torch.float64)
    # z is eliminated: x ~ N(0, W Wᵀ / (2b) + I / (2a))
    covariance = W @ W.T / (2 * of_latent) + eye / (2 * of_deviation)
    gain = torch.linalg.solve(M @ covariance @ M.T + SIGMA**2 * torch.eye(len(M), dtype=torch.float64), y.T)
    return (covariance @ M.T @ gain).T


EXACT = {
    "hard": lambda M, W, y: hard(M, W, y),
    "hard, gauss_newton": lambda M, W, y: hard(M, W, y),
    "relaxed": lambda M, W, y: near(M, W, y, LAM, LAM * MU),
    "joint": lambda M, W, y: near(M, W, y, LAM * BETA / 2, LAM / 2),
    "sparse": lambda M, W, y: hard(M, W, y),  # at a λ that no deviation is worth
}


@pytest.mark.parametrize("kind", EXACT)
def test_no_matrix_of_the_size_of_the_latent_space(problem, kind):
    A, G, y, M, W = problem
    R = {
        "hard": HardConstraint(G),
        "hard, gauss_newton": HardConstraint(G),
        "relaxed": RelaxedConstraint(G, MU),
        "joint": JointPrior(G, BETA),
        "sparse": SparseDeviation(G, 1 / 200),
    }[kind]
    solver = solvers.gauss_newton if "newton" in kind else None
    lam = 200 * LAM if kind == "sparse" else LAM
    with Largest() as largest:
        rec = reconstruct(A, y, R, noise_std=SIGMA, lam=lam, solver=solver, tol=1e-8, progress=False)
    assert (rec.status == Status.CONVERGED).all()
    assert largest.numel < 0.7 * len(y) * LATENTS**2  # L-BFGS remembers 20 vectors, which is linear
    exact = EXACT[kind](M, W, y.flatten(1)).unflatten(1, SHAPE)
    torch.testing.assert_close(rec.image, exact, atol=1e-4, rtol=0)
