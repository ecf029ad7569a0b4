r"""How often intervals of a predicted distribution hold the truth.

If the truth is a draw of the distribution that is predicted for it, a central interval of probability p holds it with
probability p, whatever the distribution: on average over the data, also over a set of pixels that depends on the data
(but not on the truth), for example those with a posterior standard deviation above a floor. With draws
:math:`x_1, \dots, x_S` of the prediction this holds without any error of quadrature for the interval between two of
them: of S + 1 exchangeable numbers each has each rank with the same probability. So with the number
:math:`r = \#\{s : x_s < x\} \in \{0, \dots, S\}` and U uniform on [0, 1]

.. math:: u = \frac{r + U}{S + 1}

is uniform on [0, 1], and the central interval holds x if :math:`|u - 1/2| \le p / 2`. Where some draws equal x, r is
one of the ranks that x could have among them, each with the same probability; a pixel that is the same in all draws
and in the truth is then in the interval with probability p, and not always: it neither confirms nor denies anything,
and is best left out (`inside`).

References
----------
S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman (2018), Validating Bayesian inference algorithms with
simulation-based calibration, arXiv:1804.06788.

C. Czado, T. Gneiting, L. Held (2009), Predictive model assessment for count data, Biometrics 65,
doi:10.1111/j.1541-0420.2009.01191.x (the randomised transform).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import seeded_generator
from genreg.operators.bridge.arrays import array
from genreg.operators.bridge.keywords import documented_like

LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Coverage:
    """Share of the pixels in their intervals, of B images and for K probabilities.

    Attributes
    ----------
    levels : tuple of float
        Nominal probabilities.
    share : Tensor
        Share of the counted pixels of each image in their intervals, ``(B, K)``; NaN of an image without any.
    count : Tensor
        Number of counted pixels, ``(B,)``: those inside for which there is a prediction.
    """

    levels: tuple[float, ...]
    share: Tensor
    count: Tensor

    @property
    def overall(self) -> Tensor:
        """Share of all counted pixels, ``(K,)``."""
        return (self._counted * self.count[:, None]).sum(0) / self.count.sum()

    @property
    def error(self) -> Tensor:
        """Standard error of `overall`, ``(K,)``, NaN for one image: images are independent, their pixels are not."""
        scatter = (self.count[:, None] * (self._counted - self.overall)).square().sum(0)
        images = int((self.count > 0).sum())
        return (scatter * (images / (images - 1) if images > 1 else math.nan)).sqrt() / self.count.sum()

    @property
    def _counted(self) -> Tensor:
        """The share, 0 of an image without a counted pixel, which has no weight."""
        return torch.where(self.count[:, None] > 0, self.share, 0.0)


def coverage(
    draws: Any, truth: Any, levels: Sequence[float] = LEVELS, *, inside: Tensor | None = None, seed: int = 0
) -> Coverage:
    """Share of the pixels in the central intervals of draws, by the ranks of the truth, see the module.

    Parameters
    ----------
    draws : Tensor or array
        Draws, ``(S, B, *shape)``; NaN is left out, and so is a pixel that has no draw.
    truth : Tensor or array
        ``(B, *shape)``, images or latent vectors.
    levels : sequence of float
        Probabilities of the intervals, between 0 and 1.
    inside : Tensor, optional
        Pixels that count, boolean, ``(B, *shape)``, some in every image; all by default. They may depend on the
        data and the draws, but not on the truth.
    seed : int
        Seed of U.

    Returns
    -------
    Coverage

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, a level is out of range, the truth is not finite, or no pixel of an image counts.
    """
    u = rank_transform(draws, truth, seed=seed)
    distance = 2 * (u - 0.5).abs()
    predicted = ~torch.as_tensor(draws).isnan().all(0).to(u.device)
    return _share(distance[..., None] <= distance.new_tensor(_checked(levels)), inside, levels, predicted)


@documented_like(coverage)
def gaussian_coverage(
    mean: Any,
    std: Any,
    truth: Any,
    levels: Sequence[float] = LEVELS,
    *,
    draws: float = math.inf,
    inside: Tensor | None = None,
) -> Coverage:
    r"""Share of the pixels in the central intervals of Gaussian pixels.

    If S draws of a Gaussian of known mean m gave the standard deviation s, the central intervals are
    :math:`m \pm t_S^{-1}((1 + p) / 2)\, s` with the quantiles of Student's distribution with S degrees of freedom.

    Parameters
    ----------
    mean, std, truth : Tensor or array
        ``(B, *shape)``; pixels whose mean or standard deviation is NaN are left out.
    draws : float
        Number of draws that `std` is made from, infinite where it is exact.
    """
    from scipy.stats import t

    mean, std, truth = _images(mean, "mean"), _images(std, "std"), _truth(truth)
    _same(mean, truth, "mean")
    _same(std, truth, "std")
    width = truth.new_tensor(t.ppf([(1 + p) / 2 for p in _checked(levels)], draws))
    within = (truth - mean).abs()[..., None] <= width * std[..., None]
    return _share(within, inside, levels, ~(mean.isnan() | std.isnan()))


@documented_like(coverage)
def interval_coverage(
    lower: Any, upper: Any, truth: Any, level: float, *, inside: Tensor | None = None
) -> Coverage:
    """Share of the pixels between two images.

    Parameters
    ----------
    lower, upper, truth : Tensor or array
        ``(B, *shape)``, for example of `sampling.Samples.interval`; pixels with a bound that is NaN are left out.
    level : float
        Nominal probability, between 0 and 1.

    Returns
    -------
    Coverage
        For one probability, ``K = 1``.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, `upper` is below `lower`, the level is out of range, the truth is not finite, or no
        pixel of an image counts.
    """
    lower, upper, truth = _images(lower, "lower"), _images(upper, "upper"), _truth(truth)
    _same(lower, truth, "lower")
    _same(upper, truth, "upper")
    if bool((upper < lower).any()):
        raise ValueError(
            f"upper must not be below lower, got {int((upper < lower).sum())} pixels where it is"
        )
    _checked((level,))
    within = ((lower <= truth) & (truth <= upper))[..., None]
    return _share(within, inside, (level,), ~(lower.isnan() | upper.isnan()))


@documented_like(coverage)
def rank_transform(draws: Any, truth: Any, *, seed: int = 0) -> Tensor:
    """The randomised ranks u of the truth among draws, see the module: uniform if they have one distribution.

    Returns
    -------
    Tensor
        u, ``(B, *shape)``, between 0 and 1, in float64. Where there is no draw it is U.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not fit or the truth is not finite.
    """
    truth = _truth(truth)
    x, random = array(draws, "draws", complex=False), seeded_generator(seed)
    if x.ndim != truth.ndim + 1 or x.shape[1:] != truth.shape or len(x) == 0:
        raise ValueError(
            f"draws must have the shape (S, *truth.shape), (S, {', '.join(map(str, truth.shape))}) with S of at least "
            f"1, got {tuple(x.shape)}"
        )
    below, equal, count = torch.zeros_like(truth), torch.zeros_like(truth), torch.zeros_like(truth)
    for one in x:  # little memory: the draws are many times the truth
        below += one < truth
        equal += one == truth
        count += ~one.isnan()
    u = torch.rand(truth.shape, generator=random, dtype=truth.dtype).to(truth.device)
    # the rank, uniform among those of the equal draws, plus U: uniform on [below, below + equal + 1]
    return (below + (equal + 1) * u) / (count + 1)


def _share(within: Tensor, inside: Tensor | None, levels: Sequence[float], predicted: Tensor) -> Coverage:
    """Average over the pixels inside for which there is a prediction, from ``(B, *shape, K)``."""
    if inside is None:
        inside = torch.ones(within.shape[:-1], dtype=torch.bool, device=within.device)
    if not isinstance(inside, Tensor) or inside.dtype != torch.bool or inside.shape != within.shape[:-1]:
        got = f"{inside.dtype} {tuple(inside.shape)}" if isinstance(inside, Tensor) else type(inside).__name__
        raise ValueError(
            f"inside must be a boolean tensor of the shape {tuple(within.shape[:-1])}, got {got}"
        )
    inside = inside.to(within.device)
    none = ~inside.flatten(1).any(1)
    if bool(none.any()):
        raise ValueError(f"inside must have a pixel in every image, got {int(none.sum())} images without")
    inside = inside & predicted
    count = inside.flatten(1).sum(1).double()
    found = (within & inside[..., None]).flatten(1, -2).sum(1)
    return Coverage(tuple(levels), found / count[:, None], count)


def _checked(levels: Sequence[float]) -> tuple[float, ...]:
    values = tuple(array(levels, "levels", complex=False).double().flatten().tolist())
    if not values or not all(0 < p < 1 for p in values):
        raise ValueError(f"levels must be probabilities between 0 and 1, at least one, got {levels}")
    return values


def _images(value: Any, name: str) -> Tensor:
    return array(value, name, complex=False).double()


def _truth(value: Any) -> Tensor:
    t = _images(value, "truth")
    if t.ndim < 2 or t.numel() == 0:
        raise ValueError(
            f"truth must have the shape (B, *shape) with at least one pixel, got {tuple(t.shape)}"
        )
    if not bool(t.isfinite().all()):
        raise ValueError(f"truth must be finite, got {int((~t.isfinite()).sum())} values that are not")
    return t


def _same(value: Tensor, truth: Tensor, name: str) -> None:
    if value.shape != truth.shape:
        raise ValueError(
            f"{name} must have the shape of truth, {tuple(truth.shape)}, got {tuple(value.shape)}"
        )
