r"""How smoothly the generator maps: singular values of its Jacobian, and Lipschitz estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.forward_derivative import Pushforward
from genreg.operators.bridge.modes import undisturbed

_ENTRIES = 20_000_000  # of the Jacobians held at a time


@dataclass(frozen=True)
class Smoothness:
    r"""Local and secant slopes of a generator over its prior.

    Attributes
    ----------
    singular_values : Tensor
        Of :math:`\partial G / \partial z` at draws of the prior, falling, ``(points, latent_dim)``.
    lipschitz : float
        The largest of them: a lower bound of the Lipschitz constant of G.
    secants : Tensor
        :math:`\|G(z) - G(z')\| / \|z - z'\|` for pairs of draws, ``(points,)``.
    """

    singular_values: Tensor
    lipschitz: float
    secants: Tensor


@undisturbed
def jacobian(G: Generator, z: Tensor) -> Tensor:
    """Jacobians of G at a batch of points, by forward differentiation in every latent direction.

    Parameters
    ----------
    G : Generator
        The model.
    z : Tensor
        ``(B, latent_dim)``.

    Returns
    -------
    Tensor
        ``(B, pixels, latent_dim)``.
    """
    push = Pushforward(lambda z: G.decode(z).mean, z)
    directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.stack([push(direction.expand_as(z)).flatten(1) for direction in directions], 2)


@undisturbed
def smoothness(G: Generator, *, points: int = 200, seed: int = 0) -> Smoothness:
    r"""Measure the slopes of G at and between draws of N(0, I).

    Norms are Euclidean, of pixels and of latent vectors.

    Parameters
    ----------
    G : Generator
        The model.
    points : int
        Number of draws, and of pairs of draws.
    seed : int
        Seed of the draws.

    Returns
    -------
    Smoothness
    """
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    points, random = integer(points, "points", minimum=2), seeded_generator(seed)
    check_memory((points, G.range.size, G.domain.size), torch_dtype(G.range), "points", points)
    z = torch.randn((2, points, *G.domain.shape), generator=random, dtype=torch_dtype(G.domain))
    z = z.to(torch_device(G.domain))
    chunk = max(1, _ENTRIES // (math.prod(G.range.shape) * z.shape[2]))
    with torch.no_grad():
        values = torch.cat([torch.linalg.svdvals(jacobian(G, part)) for part in z[0].split(chunk)])
        first, second = (torch.cat([G.decode(p).mean for p in side.split(500)]).flatten(1) for side in z)
        secants = (first - second).norm(dim=1) / (z[0] - z[1]).norm(dim=1)
    return Smoothness(values.cpu().double(), float(values.max()), secants.cpu().double())
