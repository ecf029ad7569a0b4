r"""Dead leaves: images of objects that cover each other, of all sizes, as natural images are made of.

Leaves with random places, radii, shapes and grey values fall until nothing is left to see of what lies below. With the
density :math:`r^{-3}` of the radii the images look alike at all scales, and have edges, corners, occlusions and, like
photographs, a power spectrum that falls about as :math:`1 / f^2` between their size and that of the smallest leaves.
No data set and no licence is needed: a seed makes
them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from genreg.operators.bridge.arguments import integer, integers, number, seed_number
from genreg.operators.bridge.arrays import check_memory

_BELOW = 0.005  # share of an image at which one last leaf lies below all others
_TEXTURED = 0.7  # share of images whose larger leaves have a texture
_LARGE = 4.0  # smallest radius with one, in pixels


def dead_leaves(
    n: int,
    *,
    seed: int,
    shape: tuple[int, int] = (128, 128),
    smallest: tuple[float, float] = (2.0, 12.0),
    blur: tuple[float, float] = (0.3, 0.7),
) -> Tensor:
    r"""Draw images of dead leaves.

    A leaf is an ellipse, a rectangle or a triangle in any direction, of one grey value, or with a linear shade, a
    grating or noise. Its radius has the density :math:`\propto r^{-3}` from a smallest one, which differs from image to
    image, to 0.6 of the longer side.

    Parameters
    ----------
    n : int
        Number of images.
    seed : int
        Seed of the random numbers: the same seed gives the same images. Image k depends on `seed` and k alone.
    shape : tuple of int
        Rows and columns.
    smallest : tuple of float
        The smallest radius of an image, in pixels, has a uniform logarithm between these.
    blur : tuple of float
        Standard deviation of the Gaussian by which an image is blurred, in pixels, uniform between these.

    Returns
    -------
    Tensor
        Images ``(n, *shape)``, float32, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.

    References
    ----------
    A. B. Lee, D. Mumford, J. Huang (2001), Occlusion models for natural images: a statistical study of a
    scale-invariant dead leaves model, Int. J. Comput. Vis. 41, doi:10.1023/A:1011109015675.

    R. Achddou, Y. Gousseau, S. Ladjal (2021), Synthetic images as a regularity prior for image restoration neural
    networks, SSVM, doi:10.1007/978-3-030-75549-2_27.
    """
    n, seed = integer(n, "n", minimum=1), seed_number(seed)
    size = integers(shape, "shape", minimum=1)
    if len(size) != 2:
        raise ValueError(f"shape must be two positive integers, got {shape}")
    check_memory((n, *size), torch.float32, "n", n)
    radii, widths = _interval(smallest, "smallest", above=0), _interval(blur, "blur", minimum=0)
    largest = max(0.6 * max(size), radii[1])
    images = np.empty((n, *size), np.float32)
    for k in range(n):
        random = np.random.default_rng([seed, k])
        least = math.exp(random.uniform(*np.log(radii)))
        image = gaussian_filter(
            _fallen(size, least, largest, random), random.uniform(*widths), mode="nearest"
        )
        images[k] = image.clip(0, 1)
    return torch.from_numpy(images)


def _interval(value: tuple[float, float], name: str, **limits: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, the smaller first, got {value!r}")
    low, high = (number(v, name, **limits) for v in value)
    if low > high:
        raise ValueError(f"{name} must be two numbers, the smaller first, got {value!r}")
    return low, high


def _fallen(size: tuple[int, int], least: float, largest: float, random: np.random.Generator) -> np.ndarray:
    """One image before it is blurred; the leaves are drawn from the top, each where nothing lies above it."""
    image, free = np.empty(size, np.float32), np.ones(size, bool)
    dark, bright = random.uniform(0, 0.4), random.uniform(0.6, 1)
    textured, left = random.random() < _TEXTURED, free.size
    while left > _BELOW * free.size:
        r = 1 / math.sqrt(random.uniform(largest**-2, least**-2))  # the density is proportional to r^-3
        centre = random.uniform(-r, np.add(size, r))
        low = np.maximum(np.floor(centre - r), 0).astype(int)
        high = np.minimum(np.ceil(centre + r) + 1, size).astype(int)
        at = (slice(low[0], high[0]), slice(low[1], high[1]))
        if not free[at].any():
            continue
        u, v = _directions(at, centre, random.uniform(0, math.pi))
        covered = free[at] & _inside(u, v, r, r * random.uniform(0.3, 1), random)
        grey = _shade(u, v, r, random) if textured and r > _LARGE else 0.0
        image[at] = np.where(covered, random.uniform(dark, bright) + grey, image[at])
        free[at] &= ~covered
        left -= int(covered.sum())
    image[free] = random.uniform(dark, bright)
    return image


def _directions(at: tuple[slice, slice], centre: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels of a box along and across a leaf."""
    row = np.arange(at[0].start, at[0].stop, dtype=np.float32)[:, None] - centre[0]
    column = np.arange(at[1].start, at[1].stop, dtype=np.float32) - centre[1]
    c, s = math.cos(angle), math.sin(angle)
    return c * column + s * row, c * row - s * column


def _inside(u: np.ndarray, v: np.ndarray, a: float, b: float, random: np.random.Generator) -> np.ndarray:
    """Whether pixels belong to a leaf of half axes a and b."""
    kind = random.integers(3)
    if kind == 0:
        return (u / a) ** 2 + (v / b) ** 2 < 1
    if kind == 1:
        return (abs(u) < 0.7 * a) & (abs(v) < 0.7 * b)
    return (abs(v) < 0.5 * b * (0.8 - u / a)) & (abs(u) < 0.8 * a)


def _shade(u: np.ndarray, v: np.ndarray, r: float, random: np.random.Generator) -> np.ndarray | float:
    """What is added to the grey value of a leaf: nothing, a linear shade, a grating, or noise."""
    kind = random.integers(4)
    if kind == 0:
        return random.uniform(-0.3, 0.3) * u / r
    if kind == 1:
        return random.uniform(0.02, 0.15) * np.sin(
            2 * math.pi * (u / random.uniform(3, 20) + random.random())
        )
    if kind == 2:
        return random.uniform(0.01, 0.08) * random.standard_normal(u.shape, np.float32)
    return 0.0
