r"""The latent space: whether encodings follow the prior, and what the generator makes of points in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.bridge.arrays import array, check_memory


@dataclass(frozen=True)
class PriorFit:
    r"""Encodings of images compared with the prior N(0, I).

    Attributes
    ----------
    codes : Tensor
        z, ``(B, latent_dim)``, float64.
    mean, covariance : Tensor
        Of the codes, ``(latent_dim,)`` and ``(latent_dim, latent_dim)``.
    divergence : float
        :math:`KL(N(m, C) \,\|\, N(0, I)) = \frac12 (\operatorname{tr} C + m^T m - d - \log\det C)` in nats;
        infinite where C is singular, for example for no more codes than dimensions.
    mahalanobis : Tensor
        Mahalanobis distances from the prior, :math:`\|z\|_2`, ``(B,)``. Under the prior their squares are
        chi-squared with d degrees of freedom.
    radius_statistic, radius_p : float
        Kolmogorov-Smirnov test of that.
    projections : Tensor
        Orthonormal pairs of directions, ``(P, latent_dim, 2)``.
    ks_statistic, ks_p : Tensor
        Kolmogorov-Smirnov test of the projected codes against N(0, 1), ``(P, 2)``: location, scale and shape.
    shape_p : Tensor
        p-values of the test of D'Agostino and Pearson, ``(P, 2)``: any normal distribution passes.
    """

    codes: Tensor
    mean: Tensor
    covariance: Tensor
    divergence: float
    mahalanobis: Tensor
    radius_statistic: float
    radius_p: float
    projections: Tensor
    ks_statistic: Tensor
    ks_p: Tensor
    shape_p: Tensor

    @property
    def projected(self) -> Tensor:
        """The projected codes, ``(P, B, 2)``."""
        return self.codes @ self.projections


def prior_fit(codes: Tensor, *, projections: int = 4, seed: int = 0) -> PriorFit:
    """Compare encodings with N(0, I) by moments, by distance and in random two-dimensional projections.

    The projections depend on seed and latent dimension alone, so that models share them.

    Parameters
    ----------
    codes : Tensor
        ``(B, latent_dim)``, at least 20 of at least two dimensions.
    projections : int
        Number of pairs of directions: orthonormal bases of planes of uniformly random orientation.
    seed : int
        Seed of the projections.

    Returns
    -------
    PriorFit

    Raises
    ------
    ValueError
        If there are too few codes or dimensions.
    """
    from scipy import stats

    codes = array(codes, "codes", complex=False)
    if codes.ndim != 2 or len(codes) < 20 or codes.shape[1] < 2:
        raise ValueError(f"codes must be at least 20 of at least two dimensions, got {tuple(codes.shape)}")
    codes = codes.detach().cpu().double()
    d = codes.shape[1]
    projections, random = integer(projections, "projections", minimum=1), seeded_generator(seed)
    check_memory((projections, d, 2), torch.float64, "projections", projections)
    planes = torch.linalg.qr(torch.randn(projections, d, 2, generator=random, dtype=torch.float64)).Q
    mean, covariance = codes.mean(0), codes.T.cov()
    logdet = torch.linalg.slogdet(covariance).logabsdet if len(codes) > d else -torch.inf
    radius = stats.kstest(codes.square().sum(1).numpy(force=True), stats.chi2(d).cdf)
    lines = [line.numpy(force=True) for line in (codes @ planes).mT.flatten(0, 1)]
    ks = [stats.kstest(line, "norm") for line in lines]

    def table(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64).view(projections, 2)

    return PriorFit(
        codes=codes,
        mean=mean,
        covariance=covariance,
        divergence=float(0.5 * (covariance.trace() + mean.square().sum() - d - logdet)),
        mahalanobis=codes.norm(dim=1),
        radius_statistic=float(radius.statistic),
        radius_p=float(radius.pvalue),
        projections=planes,
        ks_statistic=table([float(test.statistic) for test in ks]),
        ks_p=table([float(test.pvalue) for test in ks]),
        shape_p=table([float(stats.normaltest(line).pvalue) for line in lines]),
    )


def encodings(G: Generator, images: Tensor, *, seed: int = 0) -> tuple[Tensor, str]:
    """Encode images such that the codes would follow N(0, I) for a perfect model.

    For a variational model these are draws from q(z | x), one for every image: it is their mixture over the
    images that the prior stands for, and the means alone spread less. Otherwise the codes are E(x).

    Parameters
    ----------
    G : Generator
        A model with an encoder.
    images : Tensor
        ``(B, *G.range.shape)``.
    seed : int
        Seed of the draws.

    Returns
    -------
    codes : Tensor
        ``(B, latent_dim)``.
    source : str
        What they are, in words.

    Raises
    ------
    NotImplementedError
        If the model has no encoder.
    """
    images = images.to(device=torch_device(G.range), dtype=torch_dtype(G.range))
    if not getattr(G.model, "variational", False):
        return torch.cat([G.encode(x) for x in images.split(500)]), "codes E(x)"
    with torch.no_grad():
        parts = [G.encode_distribution(x) for x in images.split(500)]
    mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean + std * _normal(G, len(mean), seed), "draws from q(z | x), one for every image"


def far_from_prior(
    G: Generator, *, scales: Sequence[float] = (1, 2, 5, 10, 50), count: int = 8, seed: int = 0
) -> Tensor:
    r"""Generate images from :math:`z \sim N(0, s^2 I)`, for scales s beyond the prior's.

    Every scale uses the same directions: the images of a column belong to one ray of the latent space.

    Parameters
    ----------
    G : Generator
        The model.
    scales : sequence of float
        s.
    count : int
        Images of every scale.
    seed : int
        Seed of the directions.

    Returns
    -------
    Tensor
        ``(len(scales), count, *G.range.shape)``.
    """
    z = _normal(G, count, seed)
    with torch.no_grad():
        return torch.stack([G.decode(float(s) * z).mean for s in scales])


def interpolate(G: Generator, corners: Tensor, *, steps: int = 7) -> Tensor:
    r"""Interpolate between four latent vectors in two directions.

    .. math:: G\big((1-s)(1-t) z_0 + (1-s) t z_1 + s (1-t) z_2 + s t z_3\big), \quad s, t \in [0, 1].

    Parameters
    ----------
    G : Generator
        The model.
    corners : Tensor
        z at the corners: upper left, upper right, lower left, lower right; ``(4, latent_dim)``.
    steps : int
        Images along a side, at least 2.

    Returns
    -------
    Tensor
        ``(steps, steps, *G.range.shape)``, rows by s and columns by t.

    Raises
    ------
    ValueError
        If there are not four corners, or too few steps.
    """
    if corners.ndim != 2 or len(corners) != 4:
        raise ValueError(f"corners must have the shape (4, latent_dim), got {tuple(corners.shape)}")
    steps = integer(steps, "steps", minimum=2)
    t = torch.linspace(0, 1, steps, dtype=corners.dtype, device=corners.device)
    line = torch.stack([1 - t, t], 1)  # (steps, 2)
    z = torch.einsum("ia,jb,abd->ijd", line, line, corners.view(2, 2, -1))
    with torch.no_grad():
        return G.decode(z.flatten(0, 1)).mean.unflatten(0, (steps, steps))


def _normal(G: Generator, n: int, seed: int) -> Tensor:
    """Draws from the prior, ``(n, latent_dim)``."""
    random = seeded_generator(seed)
    z = torch.randn((n, *G.domain.shape), generator=random, dtype=torch_dtype(G.domain))
    return z.to(torch_device(G.domain))
