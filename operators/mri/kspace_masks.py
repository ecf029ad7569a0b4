"""Masks of k-space: which frequencies a scanner measures, with the frequency zero at ``[n // 2, m // 2]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from genreg.operators.bridge.arguments import choice, integer, integers, number, seeded_generator
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.keywords import documented_like

_DENSITIES = ("variable", "equispaced", "uniform")
_DECAY = 2  # exponent of the variable density


def cartesian_mask(
    shape: tuple[int, int],
    acceleration: float,
    *,
    centre: float = 0.08,
    density: Literal["variable", "equispaced", "uniform"] = "variable",
    seed: int | torch.Generator,
) -> np.ndarray:
    r"""Return a mask of whole columns of k-space, as phase encoding measures them.

    Of the m columns, m / `acceleration` (rounded) are measured: the innermost `centre` m, and others outside of these.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns ``(n, m)``. For lines along the other axis, transpose the mask.
    acceleration : float
        The ratio of all columns to those measured, the central ones included; at least 1.
    centre : float
        Fraction of the columns around the frequency zero that are all measured, 0 to 1.
    density : {"variable", "equispaced", "uniform"}
        How the other columns are chosen: at random with a probability that falls off as :math:`(1 - |\kappa|)^2`, with
        :math:`\kappa` the distance from the centre over that of the border; at equal distances (up to rounding and
        the gap at the centre) from a random start; at random with equal probabilities.
    seed : int or torch.Generator
        Seed of the random choices.

    Returns
    -------
    ndarray
        Boolean, ``(n, m)``.

    Raises
    ------
    TypeError
        If `shape` holds no integers, or `acceleration`, `centre` or `seed` are of another type.
    ValueError
        If `shape` is not positive, `acceleration` is below 1 or so large that no column is left, `centre` is not
        between 0 and 1 or takes more columns than are measured, or `density` is unknown.

    References
    ----------
    M. Lustig, D. Donoho, J. M. Pauly (2007). Sparse MRI: the application of compressed sensing for rapid MR imaging.
    Magnetic Resonance in Medicine 58(6), 1182-1195. doi:10.1002/mrm.21391 (variable density)

    J. Zbontar et al. (2018). fastMRI: an open dataset and benchmarks for accelerated MRI. arXiv:1811.08839
    (equispaced and uniform columns around a measured centre)
    """
    n, m = check_shape(shape)
    acceleration = number(acceleration, "`acceleration`", minimum=1)
    centre = number(centre, "`centre`", minimum=0, maximum=1)
    choice(density, "`density`", _DENSITIES)
    generator = seeded_generator(seed, name="`seed`")
    count, inner = round(m / acceleration), round(centre * m)
    if count < 1:
        raise ValueError(f"`acceleration` must leave a column of {m} to measure, got {acceleration}")
    if inner > count:
        raise ValueError(
            f"`centre` must take at most the {count} of {m} columns that `acceleration` = {acceleration} leaves, "
            f"got {inner} columns"
        )
    first = m // 2 - inner // 2
    columns = np.zeros(m, dtype=bool)
    columns[first : first + inner] = True
    outer = np.flatnonzero(~columns)
    if count > inner:
        columns[outer[_chosen(outer - m // 2, m, count - inner, density, generator)]] = True
    return np.tile(columns, (n, 1))


def _chosen(k: np.ndarray, m: int, count: int, density: str, generator: torch.Generator) -> np.ndarray:
    """Return the indices of `count` of the frequencies k."""
    if density == "equispaced":
        start = float(torch.rand((), generator=generator, dtype=torch.float64))
        return ((np.arange(count) + start) * len(k) / count).astype(int)
    weights = torch.ones(len(k), dtype=torch.float64)
    if density == "variable":
        weights = (1 - torch.from_numpy(np.abs(k)) / (m / 2 + 1)) ** _DECAY
    return torch.multinomial(weights, count, generator=generator).numpy(force=True)


@documented_like(cartesian_mask)
def radial_mask(shape: tuple[int, int], spokes: int, *, offset: float = 0.0) -> np.ndarray:
    r"""Return a mask of straight lines through the centre of k-space, on the Cartesian grid.

    Spoke i has the angle `offset` :math:`+\, \pi i /` `spokes` to the first axis, in units of frequency (cycles per
    pixel), and runs to the border of the grid. It takes one entry, the nearest, in every row, or in every column
    if it is closer to the second axis.

    Parameters
    ----------
    spokes : int
        Number of lines.
    offset : float
        Angle of the first spoke, in radians.

    Raises
    ------
    TypeError
        If `shape` or `spokes` are not integers.
    ValueError
        If they are not positive, or `offset` is not finite.
    """
    n, m = check_shape(shape)
    spokes, offset = integer(spokes, "`spokes`", minimum=1), number(offset, "`offset`")
    check_memory((spokes,), torch.float64, "`spokes`", spokes)
    mask = np.zeros((n, m), dtype=bool)
    for angle in offset + np.pi * np.arange(spokes) / spokes:
        direction = n * np.cos(angle), m * np.sin(angle)
        major = int(abs(direction[1]) > abs(direction[0]))
        along = np.arange(mask.shape[major]) - mask.shape[major] // 2
        across = np.rint(along * (direction[1 - major] / direction[major])).astype(int)
        across += mask.shape[1 - major] // 2
        inside = (across >= 0) & (across < mask.shape[1 - major])
        along = along[inside] + mask.shape[major] // 2
        (mask if major == 0 else mask.T)[along, across[inside]] = True
    return mask


def central(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """Return slices of the central rows and columns of arrays ``(*batch, n, m)``.

    Of an even number one more lies before the middle ``[n // 2, m // 2]`` than behind.

    Parameters
    ----------
    shape : sequence of int
        The shape; only its last two axes are used.
    size : sequence of int
        Number of rows and columns, at most those that there are.
    """
    rows, columns = (
        slice(n // 2 - s // 2, n // 2 - s // 2 + s) for n, s in zip(shape[-2:], size, strict=True)
    )
    return rows, columns


def check_shape(shape: Any) -> tuple[int, int]:
    """Return `shape` as two positive integers.

    Raises
    ------
    TypeError
        If it is not two integers.
    ValueError
        If one of them is not positive.
    """
    n, m = integers(shape, "`shape`", count=2, minimum=1)
    return n, m
