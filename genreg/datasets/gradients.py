r"""Digits that are lit from one side: MNIST under an intensity ramp of a random direction.

An image x of n rows and m columns becomes x times one of the ramps

    r_0(i, j) = a + (1 - a) j / (m - 1),   r_1 = r_0 mirrored left to right,
    r_2(i, j) = a + (1 - a) i / (n - 1),   r_3 = r_2 mirrored top to bottom,

0 <= i < n, 0 <= j < m, so that the brightest pixel depends on both the digit and the direction, and a bright
pixel says where to look for a brighter one. The direction is uniform on the first two, or on all four.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from genreg.datasets.digits import mnist
from genreg.operators.bridge.arguments import integer, integers, number, seed_number

DIRECTIONS = (2, 4)


def intensity_ramps(shape: tuple[int, int], gradients: int = 2, *, darkest: float = 0.2) -> Tensor:
    """Return the ramps of all directions.

    Parameters
    ----------
    shape
        Rows and columns, both at least 2.
    gradients
        Number of directions: 2 (brightest at the right, at the left) or 4 (at the bottom and at the top, too).
    darkest
        Value a at the dark edge, at least 0 and below 1; that at the bright edge is 1.

    Returns
    -------
    Tensor
        float32, ``(gradients, *shape)``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    rows, columns = integers(shape, "shape", count=2, minimum=2)
    gradients, darkest = integer(gradients, "gradients"), number(darkest, "darkest", minimum=0, below=1)
    if gradients not in DIRECTIONS:
        raise ValueError(f"gradients must be 2 or 4, got {gradients}")
    right = torch.linspace(darkest, 1, columns, dtype=torch.float32).expand(rows, columns)
    down = torch.linspace(darkest, 1, rows, dtype=torch.float32)[:, None].expand(rows, columns)
    return torch.stack([right, right.flip(1), down, down.flip(0)][:gradients])


def add_gradients(
    images: Tensor, gradients: int = 2, *, seed: int, darkest: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Multiply every image by a ramp whose direction is drawn at random.

    Parameters
    ----------
    images
        Images ``(N, rows, columns)``; they are not changed.
    gradients, darkest
        See `intensity_ramps`.
    seed
        Seed of the directions, at least 0: the same seed gives the same ones.

    Returns
    -------
    images : Tensor
        The products, of the shape and dtype of `images`.
    directions : Tensor
        int64, ``(N,)``: the number of the ramp, 0 to ``gradients - 1``.

    Raises
    ------
    TypeError
        If `seed` is not an int or `images` not a floating tensor.
    ValueError
        If an argument is out of range or `images` has another number of axes.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(
            f"images must be a floating tensor, got {getattr(images, 'dtype', type(images).__name__)}"
        )
    if images.ndim != 3:
        raise ValueError(f"images must have the shape (N, rows, columns), got {tuple(images.shape)}")
    generator = torch.Generator().manual_seed(seed_number(seed))
    rows, columns = images.shape[1:]
    ramps = intensity_ramps((rows, columns), gradients, darkest=darkest).to(images)
    directions = torch.randint(gradients, (len(images),), generator=generator)
    directions = directions.to(images.device)
    return images * ramps[directions], directions


def gradient_digits(
    root: str | os.PathLike[str] | None = None,
    *,
    train: bool = True,
    gradients: int = 2,
    seed: int = 0,
    darkest: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read MNIST and give every digit an intensity ramp of a random direction.

    Parameters
    ----------
    root, train
        See `genreg.datasets.mnist`.
    gradients, darkest
        See `intensity_ramps`.
    seed
        Seed of the directions, at least 0; the training and the test digits get different ones.

    Returns
    -------
    images : Tensor
        float32, ``(60000, 28, 28)`` or ``(10000, 28, 28)``, in [0, 1].
    labels : Tensor
        int64, the digits, ``(60000,)`` or ``(10000,)``.
    directions : Tensor
        int64, the numbers of the ramps, ``(60000,)`` or ``(10000,)``.

    Raises
    ------
    FileNotFoundError
        If the files of MNIST are missing and can't be downloaded.
    TypeError, ValueError
        If an argument is of the wrong type or out of range, or a file is damaged.

    References
    ----------
    A. M. Liang, "Using deep generative priors for inverse problems and Bayesian optimisation", 2021.
    """
    images, labels = mnist(root, train=train)
    lit, directions = add_gradients(images, gradients, seed=2 * seed + train, darkest=darkest)
    return lit, labels, directions
