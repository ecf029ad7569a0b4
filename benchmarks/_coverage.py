r"""How often intervals hold the truth: pixels, and means over blocks of pixels, of samples of a posterior.

S draws of a Gaussian with mean m give the standard deviation s of a pixel, and with it the central intervals
:math:`m \pm t_S^{-1}((1 + p) / 2)\, s`, by the quantiles of Student's distribution with S degrees of freedom. They hold
the truth with probability p if the posterior is right. The mean over a block of pixels tests the correlations as
well: a posterior that has none makes it too certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Calibration", "block_means", "calibration", "coverage", "head"]


def coverage(
    truth: Tensor, mean: Tensor, std: Tensor, levels: Sequence[float], inside: Tensor, draws: float = math.inf
) -> Tensor:
    """Share of the pixels in the intervals, ``(B, len(levels))``.

    Parameters
    ----------
    truth, mean, std : Tensor
        ``(B, n, m)``.
    levels : sequence of float
        Nominal probabilities p.
    inside : Tensor
        Pixels that count, boolean, ``(B, n, m)``, some in every image.
    draws : float
        Number of draws that `std` is made from.
    """
    from scipy.stats import t

    width = truth.new_tensor(t.ppf([(1 + p) / 2 for p in levels], draws))
    within = (truth - mean).abs()[..., None] <= width * std[..., None]  # (B, n, m, levels)
    count = inside.flatten(1).sum(1, keepdim=True)
    if not bool((count > 0).all()):
        raise ValueError("inside must have a pixel in every image, got images without")
    return (within & inside[..., None]).flatten(1, 2).sum(1) / count


def block_means(images: Tensor, size: int) -> Tensor:
    """Means over blocks of ``size x size`` pixels, ``(*batch, n, m)`` to ``(*batch, n // size, m // size)``."""
    if size == 1:
        return images
    return F.avg_pool2d(images.flatten(0, -3)[:, None], size)[:, 0].unflatten(0, images.shape[:-2])


def head(truth: Tensor, level: float = 0.1) -> Tensor:
    """The inside of the head: grey values above `level`, and the holes in them, ``(B, n, m)``."""
    from scipy.ndimage import binary_fill_holes

    return torch.stack([torch.from_numpy(binary_fill_holes(image > level)) for image in truth.numpy()])


class Calibration(NamedTuple):
    """What is measured for blocks of one size.

    Attributes
    ----------
    coverage : Tensor
        Share of the blocks in the intervals, ``(B, levels)``.
    std : Tensor
        Mean standard deviation, ``(B,)``.
    score : Tensor
        Root mean square of (truth - mean) / s, ``(B,)``: 1 if s is right, larger if it is too small.
    """

    coverage: Tensor
    std: Tensor
    score: Tensor


def calibration(
    truth: Tensor, mean: Tensor, samples: Tensor, levels: Sequence[float], *, block: int, inside: Tensor
) -> Calibration:
    """Compare the truth with draws of a Gaussian.

    Parameters
    ----------
    truth, mean : Tensor
        Images and means of the posterior, ``(B, n, m)``.
    samples : Tensor
        Its draws, ``(S, B, n, m)``; only their scatter about `mean` is used.
    levels : sequence of float
        Nominal probabilities.
    block : int
        Side of the blocks, 1 for pixels.
    inside : Tensor
        Boolean, ``(B, n, m)``; a block counts if more than half of its pixels do.
    """
    deviations = block_means(samples - mean, block)
    std = deviations.square().mean(0).sqrt()
    true, centre = block_means(truth, block), block_means(mean, block)
    counted = block_means(inside.to(truth.dtype), block) > 0.5

    def average(values: Tensor) -> Tensor:
        return torch.where(counted, values, 0).flatten(1).sum(1) / counted.flatten(1).sum(1)

    score = average(((true - centre) / std).square()).sqrt()
    return Calibration(coverage(true, centre, std, levels, counted, len(samples)), average(std), score)
