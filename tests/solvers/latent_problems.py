"""Small generators, forward operators on a weighted space, and what they are worth as dense matrices."""

import math

import numpy as np
import odl
import torch
from odl.applications import tomo
from torch import nn

from genreg.generator import Generator
from genreg.networks import DenseConfig
from genreg.operators import blur, gaussian_measurements, mask, ray_transform, to_torch

SHAPE, K = (4, 3), 3
N = math.prod(SHAPE)
KEEP = np.random.default_rng(0).random(SHAPE) < 0.6


def space(dtype="float64"):
    """Images with cells of volume 2.25."""
    return odl.uniform_discr([0, 0], [6, 4.5], SHAPE, dtype=dtype)


def rays(X):
    return ray_transform(X, tomo.parallel_beam_geometry(X, 3, det_shape=5))


OPERATORS = {
    "identity": odl.IdentityOperator,
    "mask": lambda X: mask(X, KEEP),
    "gaussian": lambda X: gaussian_measurements(X, 7, seed=3),
    "blur": lambda X: blur(X, 0.8, boundary="symmetric"),
    "rays": rays,
}


def dense(op):
    """The matrix of a linear operator between flattened samples."""
    op = to_torch(op)
    shape = tuple(op.domain.shape)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return op(basis).flatten(1).T


class Linear(nn.Module):
    """The generator z -> W z with the encoder x -> E x, by default the exact posterior mean of z given x."""

    latent_dim = K

    def __init__(self, beta, E=None, seed=7):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(N, K, dtype=torch.float64, generator=generator))
        eye = torch.eye(K, dtype=torch.float64)
        exact = torch.linalg.solve(beta * self.W.T @ self.W + eye, beta * self.W.T)
        self.E = nn.Parameter(exact if E is None else E)
        self.log_gamma = nn.Parameter(torch.tensor(-0.5 * math.log(beta), dtype=torch.float64))

    def decode(self, z):
        return (z @ self.W.T).unflatten(1, SHAPE)

    def encode(self, x):
        return x.flatten(1) @ self.E.T


def linear(beta=4.0, E=None, X=None):
    """The linear generator, and its matrix."""
    model = Linear(beta, E)
    return Generator(model, space() if X is None else X), model.W.detach()


def network(dtype="float64", latent_dim=K, seed=0):
    """An autoencoder with random weights; steep, so that it is far from linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = DenseConfig(
            image_shape=SHAPE, latent_dim=latent_dim, encoder=(6,), decoder=(6,), activation="tanh"
        )
        model = config.build().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("decoder") and name.endswith("weight"):
                p *= 4
    return Generator(model, space(dtype))


def data(A, G, batch=4, std=0.05, seed=1):
    """Noisy data of drawn latent vectors, and these."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, *G.domain.shape, dtype=torch.float64, generator=generator)
    y = to_torch(A)(G.decode(z).mean)
    return y + std * torch.randn(y.shape, dtype=torch.float64, generator=generator), z


def inverse_variances(y, std):
    """1/σ² of every datum, ``(B, m)``, of σ for all, for every sample or for every datum."""
    std = torch.as_tensor(std, dtype=torch.float64)
    std = std.reshape(-1, *(1,) * (y.ndim - 1)) if std.ndim <= 1 else std
    return (std**-2).expand(y.shape).flatten(1)


def closed_form(A, W, y, std, beta):
    """The minimiser (x, z) of J and its value, for a linear generator, from the normal equations of both."""
    M = dense(A)
    b, precisions = y.flatten(1), inverse_variances(y, std)
    xs, zs, values = [], [], []
    for k, t in enumerate(torch.as_tensor(beta, dtype=torch.float64).expand(len(y))):
        s = precisions[k]
        top = torch.cat((M.T @ (s[:, None] * M) + t * torch.eye(N, dtype=torch.float64), -t * W), 1)
        bottom = torch.cat((-t * W.T, t * W.T @ W + torch.eye(K, dtype=torch.float64)), 1)
        right = torch.cat((M.T @ (s * b[k]), torch.zeros(K, dtype=torch.float64)))
        both = torch.linalg.solve(torch.cat((top, bottom)), right)
        x, z = both[:N], both[N:]
        xs.append(x.view(SHAPE))
        zs.append(z)
        r, u = M @ x - b[k], x - W @ z
        values.append(0.5 * (s @ r.square() + t * u @ u + z @ z))
    return torch.stack(xs), torch.stack(zs), torch.stack(values)


def hard_closed_form(A, W, y, std, weight):
    """The minimiser of ‖AWz - y‖²/(2σ²) + w/2 ‖z‖², and its value."""
    M, b, s = dense(A) @ W, y.flatten(1), inverse_variances(y, std)
    w = torch.as_tensor(weight, dtype=torch.float64).expand(len(y))[:, None, None]
    normal = M.T @ (s[..., None] * M) + w * torch.eye(K, dtype=torch.float64)
    z = torch.linalg.solve(normal, (s * b) @ M)
    r = z @ M.T - b
    return z, 0.5 * ((s * r.square()).sum(1) + w[:, 0, 0] * z.square().sum(1))
