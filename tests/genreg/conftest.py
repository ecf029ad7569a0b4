"""A linear generator and operator, for which everything has a closed form."""

import numpy as np
import odl
import pytest
import torch
from torch import nn

from genreg import Generator, to_torch
from genreg.operators import gaussian_measurements


class LinearModel(nn.Module):
    """x = W z + b, with the pseudo-inverse as its encoder."""

    latent_dim = 3

    def __init__(self, shape=(4, 5), channel=False):
        super().__init__()
        torch.manual_seed(3)
        self.shape = (1, *shape) if channel else shape
        self.linear = nn.Linear(self.latent_dim, int(np.prod(shape)), dtype=torch.float64)
        self.log_gamma = torch.tensor(-2.0)

    def decode(self, z):
        return self.linear(z).unflatten(1, self.shape)

    def encode(self, x):
        return (x.flatten(1) - self.linear.bias) @ torch.linalg.pinv(self.linear.weight).T


@pytest.fixture(name="X")
def space():
    return odl.uniform_discr([0, 0], [8, 5], (4, 5))  # cell volume 2


@pytest.fixture(name="A")
def operator(X):
    return gaussian_measurements(X, 12, seed=0)


@pytest.fixture(name="G")
def generator(X):
    return Generator(LinearModel(), X)


@pytest.fixture(name="y")
def data(A):
    return torch.randn(3, *A.range.shape, dtype=torch.float64)


@pytest.fixture
def closed_form(A, G):
    """Minimiser of ‖A(Wz + b) - y‖²/(2σ²) + λ‖z‖² from the normal equations."""
    identity = torch.eye(G.domain.size, dtype=torch.float64)
    offset = to_torch(A)(G.module(torch.zeros(1, 3, dtype=torch.float64)))
    AW = (to_torch(A)(G.module(identity)) - offset).T

    def solve(y, sigma, lam):
        normal = AW.T @ AW / sigma**2 + 2 * lam * identity
        return torch.linalg.solve(normal, AW.T @ (y - offset).T / sigma**2).T

    return solve
