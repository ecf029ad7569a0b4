"""Gaussian graphical models, observations of them, and scores, for `empirical_bayes.py`."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import odl
import torch
from torch import Tensor

import genreg
from genreg.empirical_bayes import ExactPosterior, GaussianGraphicalModel

__all__ = [
    "GRAPHS",
    "Observed",
    "Setting",
    "edge_f1",
    "frobenius",
    "gaussian",
    "mixture",
    "observe",
    "pseudo_inverse",
    "ridge",
]


def chain(p: int, generator: torch.Generator) -> Tensor:
    """Each entry tied to the next, precision -0.45, the diagonal 1."""
    tie = torch.full((p - 1,), -0.45, dtype=torch.float64)
    return torch.eye(p, dtype=torch.float64) + torch.diag(tie, 1) + torch.diag(tie, -1)


def grid(p: int, generator: torch.Generator) -> Tensor:
    """Entries on a rectangle, as near to a square as p allows, each tied to its neighbours, precision -0.22."""
    rows = max(r for r in range(1, math.isqrt(p) + 1) if p % r == 0)
    place = torch.arange(p).reshape(rows, p // rows)
    matrix = torch.eye(p, dtype=torch.float64)
    for a, b in ((place[:, :-1], place[:, 1:]), (place[:-1], place[1:])):
        matrix[a.flatten(), b.flatten()] = matrix[b.flatten(), a.flatten()] = -0.22
    return matrix


def sparse(p: int, generator: torch.Generator) -> Tensor:
    """Pairs at random, 1.5 for each entry, weights of both signs; partial correlations of 0.05 to 0.7."""
    pairs = torch.tensor(list(itertools.combinations(range(p), 2)))
    chosen = pairs[torch.randperm(len(pairs), generator=generator)[: 3 * p // 2]]
    weights = 0.3 + 0.3 * torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    signs = 2.0 * torch.randint(2, (len(chosen),), generator=generator) - 1
    matrix = torch.zeros(p, p, dtype=torch.float64)
    matrix[chosen[:, 0], chosen[:, 1]] = weights * signs
    matrix = matrix + matrix.T
    matrix = matrix + torch.diag(matrix.abs().sum(1) + 0.3)
    scale = matrix.diagonal().rsqrt()
    return matrix * (scale[:, None] * scale)


GRAPHS = {"chain": chain, "grid": grid, "random": sparse}


class Setting(NamedTuple):
    """Number of unknowns, observations, data of each, and the standard deviation of the noise."""

    p: int
    n: int
    m: int
    sigma: float

    def __str__(self) -> str:
        return f"p = {self.p}, n = {self.n}, m = {self.m}, σ = {self.sigma}"


class Observed(NamedTuple):
    """Latent vectors, what was observed of them, and the prior they come from."""

    z: Tensor
    matrix: Tensor
    fidelity: genreg.GaussianFidelity
    truth: GaussianGraphicalModel

    @property
    def oracle(self) -> ExactPosterior:
        """The posterior under the true prior."""
        return ExactPosterior(self.fidelity, self.truth)

    def mse(self, estimate: Tensor) -> float:
        """Mean squared error of the latent vectors."""
        return (estimate - self.z).square().mean().item()


def observe(truth: GaussianGraphicalModel, setting: Setting, *, seed: int = 0) -> Observed:
    """Observations y = A z + σ ε of draws of a prior, A with independent entries N(0, 1/m)."""
    generator = torch.Generator().manual_seed(seed)
    z = truth.sample(setting.n, seed=seed + 1)
    A = torch.randn(setting.m, setting.p, generator=generator) / math.sqrt(setting.m)
    y = z @ A.T + setting.sigma * torch.randn(setting.n, setting.m, generator=generator)
    Y = odl.rn(setting.m, dtype="float32")
    operator = odl.MatrixOperator(A.numpy(), domain=truth.space, range=Y)
    return Observed(z, A, genreg.GaussianFidelity(operator, y, setting.sigma), truth)


def gaussian(graph: str, setting: Setting) -> Observed:
    """Observations of a Gaussian graphical model."""
    matrix = GRAPHS[graph](setting.p, torch.Generator().manual_seed(setting.p))
    Z = odl.rn(setting.p, dtype="float32")
    return observe(GaussianGraphicalModel(Z, precision=matrix), setting)


def mixture(setting: Setting, separation: float = 1.5) -> Observed:
    """Observations of a mixture of a chain (60 %) and a random graph (40 %), with means on both sides of zero."""
    generator = torch.Generator().manual_seed(setting.p)
    matrices = torch.stack([chain(setting.p, generator), sparse(setting.p, generator)])
    direction = torch.randn(setting.p, generator=generator, dtype=torch.float64)
    means = separation * torch.stack([direction, -direction]) / direction.norm()
    Z = odl.rn(setting.p, dtype="float32")
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    return observe(
        GaussianGraphicalModel(Z, 2, mean="learned", precision=matrices, means=means, weights=weights),
        setting,
    )


def edge_f1(found: Tensor, truth: Tensor) -> float:
    """Harmonic mean of precision and recall of the edges of a graph."""
    a, b = (matrix.triu(1) != 0 for matrix in (found, truth))
    return 2 * int((a & b).sum()) / max(int(a.sum()) + int(b.sum()), 1)


def frobenius(found: Tensor, truth: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return float((found - truth).norm() / truth.norm())


def pseudo_inverse(observed: Observed) -> Tensor:
    """The least-squares solutions of least norm."""
    return observed.fidelity.data @ torch.linalg.pinv(observed.matrix).T


def ridge(observed: Observed) -> Tensor:
    """Tikhonov solutions with the identity, each with a parameter of its own by generalised cross-validation."""
    U, s, Vt = torch.linalg.svd(observed.matrix.double(), full_matrices=False)
    y = observed.fidelity.data.double()
    b = y @ U
    outside = (y.square().sum(1) - b.square().sum(1)).clamp_min(0)
    alphas = torch.logspace(-6, 3, 91, dtype=torch.float64) * s.max().square()
    kept = s.square() / (s.square() + alphas[:, None])  # (alphas, rank)
    residual = ((1 - kept[:, None]) * b).square().sum(2) + outside
    score = residual / (y.shape[1] - kept.sum(1))[:, None].square()
    best = kept[score.argmin(0)]
    return ((best / s) * b @ Vt).float()
