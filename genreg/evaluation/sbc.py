r"""Whether the encoder of a variational model knows how uncertain it is: simulation-based calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genreg.generator import Generator
from genreg.operators import torch_device, torch_dtype
from genreg.operators.bridge.arguments import integer, seeded_generator
from genreg.operators.precision.base import white_noise

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Calibration:
    """Simulation-based calibration of q(z | x).

    Attributes
    ----------
    pit : Tensor
        Probability integral transforms, ``(draws, latent_dim)``: uniform on [0, 1] if q is the posterior.
    ks_statistic, ks_p : Tensor
        Kolmogorov-Smirnov test of uniformity for every coordinate, ``(latent_dim,)``.
    p_value : float
        Of all coordinates together: the smallest, times their number (Bonferroni), at most 1.
    levels : tuple of float
        Probabilities of central intervals.
    coverage : Tensor
        Share of the draws within them, ``(len(levels), latent_dim)``.
    bias, spread : Tensor
        Mean and standard deviation of (z - mean) / std, ``(latent_dim,)``: 0 and 1 if q is the posterior, a
        spread above 1 means that q is too narrow.
    """

    pit: Tensor
    ks_statistic: Tensor
    ks_p: Tensor
    p_value: float
    levels: tuple[float, ...]
    coverage: Tensor
    bias: Tensor
    spread: Tensor


def calibration(
    G: Generator, *, draws: int = 2000, levels: Sequence[float] = LEVELS, noise: float = 1.0, seed: int = 0
) -> Calibration:
    r"""Check q(z | x) = N(mean, diag(std²)) on images whose latent vector is known.

    Draw :math:`z \sim N(0, I)` and :math:`x = G(z) + \gamma \epsilon` with white noise :math:`\epsilon`, that is,
    from the joint distribution of the model. If q(z | x) is the posterior of the model, the rank of every
    :math:`z_k` among draws of :math:`q(z_k | x)` is uniform (Talts et al., theorem 1). For a Gaussian q the
    limit of infinitely many draws is the transform :math:`\Phi((z_k - \mathrm{mean}_k) / \mathrm{std}_k)`,
    which is used here.

    An encoder that was trained on clean images meets this noise for the first time here. How it does without is
    what ``noise=0`` measures; a posterior of clean images is not defined by the model, so that this shows no
    more than whether the intervals of q hold the true z.

    This looks at images of the model alone: for photographed or simulated test images the true z does not
    exist, so that the same check is impossible for them.

    Parameters
    ----------
    G : Generator
        A variational model with a decoder's standard deviation γ.
    draws : int
        Number of pairs (z, x).
    levels : sequence of float
        Probabilities of the central intervals.
    noise : float
        Scale of the noise: 1 for that of the decoder.
    seed : int
        Seed of the draws.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If `draws` is below 2.
    TypeError
        If the model is not variational or has no γ.

    References
    ----------
    S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018), Validating Bayesian inference algorithms
    with simulation-based calibration, arXiv:1804.06788.
    """
    from scipy import stats

    if not can_calibrate(G):
        raise TypeError(f"G must be a variational model with a standard deviation of the decoder, got {G!r}")
    draws, random = integer(draws, "draws", minimum=2), seeded_generator(seed)
    dtype, device = torch_dtype(G.domain), torch_device(G.domain)
    scores = []
    for n in [500] * (draws // 500) + [draws % 500] * bool(draws % 500):
        z = torch.randn((n, *G.domain.shape), generator=random, dtype=dtype)
        epsilon = white_noise(G.range, n, (), random)
        with torch.no_grad():
            decoded = G.decode(z.to(device))
            assert decoded.precision is not None
            x = decoded.mean + noise * decoded.precision.colour(epsilon)
            mean, std = G.encode_distribution(x)
        scores.append(((z.to(device) - mean) / std).cpu().double())
    score = torch.cat(scores)
    pit = torch.special.ndtr(score)
    tests = [stats.kstest(column.numpy(force=True), "uniform") for column in pit.T]
    p = torch.tensor([float(test.pvalue) for test in tests], dtype=torch.float64)
    half = torch.special.ndtri((1 + torch.tensor(levels, dtype=torch.float64)) / 2)
    return Calibration(
        pit=pit,
        ks_statistic=torch.tensor([float(test.statistic) for test in tests], dtype=torch.float64),
        ks_p=p,
        p_value=float((p.min() * len(p)).clamp_max(1.0)),  # NaN stays NaN
        levels=tuple(levels),
        coverage=(score.abs() <= half[:, None, None]).double().mean(1),
        bias=score.mean(0),
        spread=score.std(0),
    )


def can_calibrate(G: Generator) -> bool:
    """Whether the model has what `calibration` needs."""
    if not isinstance(G, Generator):
        raise TypeError(f"G must be a genreg.Generator, got {type(G).__name__}")
    return bool(getattr(G.model, "variational", False)) and G.std is not None
