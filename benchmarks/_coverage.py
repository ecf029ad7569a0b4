"""How often intervals hold the truth: pixels, and means over blocks of pixels, of samples of a Gaussian posterior.

The intervals are those of `genreg.evaluation.gaussian_coverage`. The mean over a block of pixels tests the
correlations as well: a posterior that has none makes it too certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genreg.evaluation import gaussian_coverage

__all__ = ["CURVE", "LEVELS", "Calibration", "block_means", "calibration", "coverage_panel", "head"]

LEVELS = (0.5, 0.8, 0.95)
CURVE = tuple(k / 20 for k in range(1, 20))


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
    found = gaussian_coverage(centre, std, true, levels, draws=len(samples), inside=counted)
    return Calibration(found.share.to(truth.dtype), average(std), score)


def coverage_panel(ax: Any, title: str) -> None:
    """Prepare axes for the share of truths in the intervals against the nominal probability."""
    ax.plot((0, 1), (0, 1), color="#a0aec0", linewidth=0.8)
    ticks = (0, *LEVELS)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=ticks, yticks=ticks)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel("nominal", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.25, linewidth=0.5)
