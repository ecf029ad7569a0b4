"""Masks of k-space: which frequencies a scanner measures, with the frequency zero at ``[n // 2, m // 2]``."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["radial_mask"]


def radial_mask(shape: tuple[int, int], spokes: int, *, offset: float = 0.0) -> np.ndarray:
    r"""Return a mask of straight lines through the centre of k-space, on the Cartesian grid.

    Spoke i has the angle `offset` :math:`+\, \pi i /` `spokes` to the first axis, in units of frequency (cycles per
    pixel), and runs to the border of the grid. It takes one entry, the nearest, in every row, or in every column
    if it is closer to the second axis.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns ``(n, m)``.
    spokes : int
        Number of lines.
    offset : float
        Angle of the first spoke, in radians.

    Returns
    -------
    ndarray
        Boolean, ``(n, m)``.

    Raises
    ------
    TypeError
        If `shape` or `spokes` are not integers.
    ValueError
        If they are not positive, or `offset` is not finite.
    """
    n, m = check_shape(shape)
    if isinstance(spokes, bool) or not isinstance(spokes, int | np.integer):
        raise TypeError(f"`spokes` must be an integer, got {spokes!r}")
    if spokes < 1:
        raise ValueError(f"`spokes` must be positive, got {spokes}")
    if not np.isfinite(offset):
        raise ValueError(f"`offset` must be a finite angle in radians, got {offset!r}")
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


def check_shape(shape: Any) -> tuple[int, int]:
    """Return `shape` as two positive integers.

    Raises
    ------
    TypeError
        If it is something else than two integers.
    ValueError
        If one of them is not positive.
    """
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sizes) != 2 or any(isinstance(s, bool) or not isinstance(s, int | np.integer) for s in sizes):
        raise TypeError(f"`shape` must be two integers (rows, columns), got {shape!r}")
    if min(sizes) < 1:
        raise ValueError(f"`shape` must be positive, got {sizes}")
    return int(sizes[0]), int(sizes[1])
