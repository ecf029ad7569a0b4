r"""Whether generated images are distributed as given ones: earth mover's distance and maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number, seeded_generator
from genreg.operators.bridge.arrays import array


def emd(a: Tensor, b: Tensor) -> float:
    r"""Earth mover's distance between two sets of images with the squared Euclidean ground metric.

    .. math:: \min_{T \ge 0} \sum_{ij} T_{ij} \|a_i - b_j\|_2^2
        \quad\text{with}\quad \sum_j T_{ij} = \tfrac1n, \; \sum_i T_{ij} = \tfrac1m ,

    the square of the Wasserstein-2 distance of the empirical measures, solved exactly by the network simplex
    method of POT.

    Parameters
    ----------
    a, b : Tensor
        ``(n, *shape)`` and ``(m, *shape)``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes of the images differ.
    ImportError
        If POT is not installed.
    RuntimeError
        If the network simplex method does not reach the optimum.

    References
    ----------
    R. Flamary et al. (2021), POT: Python Optimal Transport, JMLR 22(78).
    """
    ot, a, b = load_pot(), _images(a, "a"), _images(b, "b")
    cost = _squared_distances(a, b).numpy(force=True)
    n, m = cost.shape
    weights = (torch.full((k,), 1 / k, dtype=torch.float64).numpy(force=True) for k in (n, m))
    value, log = ot.emd2(*weights, cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"POT did not find the earth mover's distance: {log['warning']}")
    return float(value)


def load_pot() -> Any:
    """Import POT, or say how to install it."""
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "the earth mover's distance needs POT: pip install genreg[evaluation], or pip install POT"
        ) from error
    return ot


@dataclass(frozen=True)
class EarthMover:
    r"""Earth mover's distance of generated from test images, see `emd`, and its scale.

    Attributes
    ----------
    raw : float
        EMD(generated, test), in squared grey values summed over the pixels: the number that the public code of
        Duff, Campbell and Ehrhardt reports.
    per_pixel : float
        ``raw`` divided by the number of pixels.
    reference : float or None
        EMD(other held-out images, test): what a perfect generator would reach with as many images, which is
        not zero.
    relative : float or None
        ``raw / reference``, the normalisation of section 4.5 of the paper: 1 for a perfect generator.
    images : int
        Number of images in each of the sets.
    """

    raw: float
    per_pixel: float
    reference: float | None
    relative: float | None
    images: int


def earth_mover(generated: Tensor, test: Tensor, reference: Tensor | None = None) -> EarthMover:
    """Compare generated with test images by the earth mover's distance.

    Both distances, of generated from test images and of reference from test images, are those of `emd`: the raw
    grey values, uniform weights, no scaling. The first k images of each set count, with k the size of the
    smallest: an empirical EMD falls with the number of images, so that only sets of one size compare. What is
    reported is the first distance as it is, per pixel, and divided by the second.

    Parameters
    ----------
    generated, test : Tensor
        ``(n, *shape)``, ``(m, *shape)``.
    reference : Tensor, optional
        Other images of the distribution of the test images, for example of the training set.

    Returns
    -------
    EarthMover

    References
    ----------
    M. Duff, N. D. F. Campbell, M. J. Ehrhardt (2021), arXiv:2107.11191, section 4.5.
    """
    generated, test = _images(generated, "generated"), _images(test, "test")
    reference = None if reference is None else _images(reference, "reference")
    sets = [generated, test] + ([] if reference is None else [reference])
    k = min(map(len, sets))
    generated, test = generated[:k], test[:k]
    raw = emd(generated, test)
    scale = None if reference is None else emd(reference[:k], test)
    relative = raw / scale if scale else None
    return EarthMover(raw, raw / test[0].numel(), scale, relative, k)


@dataclass(frozen=True)
class MeanDiscrepancy:
    r"""Squared maximum mean discrepancy (MMD) of two sets, and its permutation test.

    Attributes
    ----------
    bandwidths : tuple of float
        Bandwidths σ of the Gaussian kernels.
    values, p_values : tuple of float
        Unbiased estimate, which may be negative, and p-value for each of the kernels.
    value, p_value : float
        The same for the mean of the kernels: one test that looks at all scales.
    null : Tensor
        ``value`` of the permutations, ``(permutations,)``.
    """

    bandwidths: tuple[float, ...]
    values: tuple[float, ...]
    p_values: tuple[float, ...]
    value: float
    p_value: float
    null: Tensor


def mmd(
    a: Tensor,
    b: Tensor,
    *,
    factors: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    permutations: int = 500,
    seed: int = 0,
) -> MeanDiscrepancy:
    r"""Test whether two sets of images have the same distribution, by the maximum mean discrepancy.

    With the kernels :math:`k(a, b) = \exp(-\|a - b\|^2 / (2 \sigma^2))` the unbiased estimate is

    .. math:: \frac{1}{n (n-1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{m (m-1)} \sum_{i \ne j} k(b_i, b_j)
        - \frac{2}{n m} \sum_{ij} k(a_i, b_j) .

    The bandwidths are multiples of the median distance within the joint set (median heuristic). The p-value is
    the share of random divisions of the joint set, the given one included, with an estimate at least as large.

    Parameters
    ----------
    a, b : Tensor
        ``(n, *shape)`` and ``(m, *shape)``, at least two images each.
    factors : sequence of float
        Bandwidths in units of the median distance.
    permutations : int
        Number of random divisions.
    seed : int
        Seed of the random divisions.

    Returns
    -------
    MeanDiscrepancy

    Raises
    ------
    ValueError
        If the shapes of the images differ, a set has fewer than two, most images are equal, or `permutations`
        is not positive.

    References
    ----------
    A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola (2012), A kernel two-sample test, JMLR 13,
    723-773: lemma 6 and section 8.
    """
    a, b = _images(a, "a"), _images(b, "b")
    n, m = len(a), len(b)
    factors = [
        number(factor, f"factors[{i}]", above=0)
        for i, factor in enumerate(array(factors, "factors").flatten())
    ]
    permutations, random = integer(permutations, "permutations", minimum=1), seeded_generator(seed)
    if min(n, m) < 2:
        raise ValueError(f"a and b must have at least two images each, got {n} and {m}")
    _check(a, b)
    joint = torch.cat([a, b.to(a)])
    squared = _squared_distances(joint, joint)
    above = squared[torch.ones_like(squared, dtype=torch.bool).triu(1)]
    median = float(above.median().sqrt())
    if not median > 0:
        raise ValueError("a and b must differ: the median distance between their images is zero")
    bandwidths = tuple(float(factor) * median for factor in factors)

    given = torch.arange(n + m)
    order = torch.stack([given, *(torch.randperm(n + m, generator=random) for _ in range(permutations))])
    member = torch.zeros(order.shape, dtype=squared.dtype).scatter_(1, order[:, :n], 1.0).to(squared.device)
    estimates = torch.stack([_estimates(squared, sigma, member, n, m) for sigma in bandwidths])
    estimates = torch.cat([estimates, estimates.mean(0, keepdim=True)])  # (kernels + 1, permutations + 1)
    rounding = 1e-12  # divisions that are the given one but for the order of summation count as equal
    p_values = (estimates >= estimates[:, :1] - rounding).double().mean(1).tolist()
    values = estimates[:, 0].tolist()
    null = estimates[-1, 1:].cpu()
    return MeanDiscrepancy(
        bandwidths, tuple(values[:-1]), tuple(p_values[:-1]), values[-1], p_values[-1], null
    )


def _estimates(squared: Tensor, sigma: float, member: Tensor, n: int, m: int) -> Tensor:
    """The unbiased estimate for every division; `member` says who belongs to the first set, ``(P, n + m)``."""
    kernel = torch.exp(-squared / (2 * sigma**2)).fill_diagonal_(0)
    inner = member @ kernel  # (P, n + m)
    first = (inner * member).sum(1)
    mixed = inner.sum(1) - first
    second = kernel.sum() - first - 2 * mixed
    return first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * mixed / (n * m)


def nearest_distance(images: Tensor, among: Tensor) -> Tensor:
    """Euclidean distance of every image from the nearest one of a set.

    Parameters
    ----------
    images, among : Tensor
        ``(n, *shape)`` and ``(m, *shape)``.

    Returns
    -------
    Tensor
        ``(n,)``, float64.
    """
    return _squared_distances(images, among).amin(1).sqrt()


def _images(value: Any, name: str) -> Tensor:
    """A set of images, ``(n, *shape)``."""
    images = array(value, name, complex=False)
    if images.ndim < 2 or not images.numel():
        raise ValueError(
            f"{name} must be images (n, *shape), at least one, got the shape {tuple(images.shape)}"
        )
    return images


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"both sets must have images of one shape, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
        )
    bad = [int((~torch.isfinite(t.flatten(1)).all(1)).sum()) for t in (a, b)]
    if any(bad):
        raise ValueError(f"both sets must have finite images, got {bad[0]} and {bad[1]} that are not")


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i - b_j‖², ``(n, m)``, float64."""
    _check(a, b)
    a, b = a.flatten(1).double(), b.flatten(1).to(a.device).double()
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp_min(0)
