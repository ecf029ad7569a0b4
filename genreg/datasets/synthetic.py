r"""Synthetic images: a disc and a rectangle, with and without a spot.

The images are those of Duff, Campbell and Ehrhardt (2021). A pixel is named by its row i and column j,
0 <= i, j < 56. With integer centre c, radius r, corner k and sides s,

    disc      = {(i, j): (i - c_0)^2 + (j - c_1)^2 <= r^2},  c in {28, ..., 41}^2,  r in {6, ..., 13},
    rectangle = {(i, j): k_0 <= i < k_0 + s_0, k_1 <= j < k_1 + s_1},
                k in {0, ..., 13}^2,  s in {6, ..., 13}^2,

every parameter uniform and independent. Both are painted with the value 0.5 on black, so where they overlap
the value is 0.5 as well. (The authors drew with OpenCV, whose rectangles include the far corner and are
one pixel longer and wider.)
"""

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import integer, seed_number
from genreg.operators.bridge.arrays import check_memory
from genreg.operators.bridge.keywords import documented_like

SIZE = 56


def shapes(n: int, *, seed: int) -> Tensor:
    """Draw images of a disc and a rectangle.

    Parameters
    ----------
    n
        Number of images, at least 1.
    seed
        Seed of the random numbers: the same seed gives the same images. A longer draw from the same seed is
        not a continuation of a shorter one.

    Returns
    -------
    Tensor
        Images of shape ``(n, 56, 56)``, float32, with the values 0 and 0.5.

    Raises
    ------
    TypeError, ValueError
        If `n` is not a positive integer or `seed` not a non-negative one.

    References
    ----------
    M. Duff, N. D. F. Campbell, M. J. Ehrhardt, "Regularising inverse problems with generative machine
    learning models", 2021. arXiv:2107.11191.
    """
    return _draw(n, _generator(n, seed))[0]


@documented_like(shapes)
def shapes_plus(n: int, *, seed: int) -> Tensor:
    """Draw the images of `shapes` with a bright spot inside the disc.

    A generator trained on shapes can't produce the spot. It has radius 2 and value 1; its integer centre is
    that of the disc plus an offset uniform in [-r/2, r/2]^2, rounded, r being the radius of the disc. It lies
    within the disc and above the rectangle. ``shapes_plus(n, seed=s)`` and ``shapes(n, seed=s)`` differ in
    the spots alone.

    Returns
    -------
    Tensor
        Images of shape ``(n, 56, 56)``, float32, with the values 0, 0.5 and 1.

    References
    ----------
    M. Duff, N. D. F. Campbell, M. J. Ehrhardt, "Regularising inverse problems with generative machine
    learning models", section 5.3, 2021. arXiv:2107.11191.
    """
    generator = _generator(n, seed)
    images, centre, radius = _draw(n, generator)
    offset = (torch.rand(n, 2, generator=generator, dtype=torch.float32) - 0.5) * radius[:, None]
    return images.masked_fill_(_disc(centre + offset.round().long(), torch.full_like(radius, 2)), 1.0)


def _generator(n: int, seed: int) -> torch.Generator:
    check_memory((integer(n, "n", minimum=1), SIZE, SIZE), torch.float32, "n", n)
    return torch.Generator().manual_seed(seed_number(seed))


def _draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return images ``(n, 56, 56)``, centres of the discs ``(n, 2)`` and radii ``(n,)``."""
    centre = torch.randint(28, 42, (n, 2), generator=generator)
    radius = torch.randint(6, 14, (n,), generator=generator)
    corner = torch.randint(0, 14, (n, 2), generator=generator)
    sides = torch.randint(6, 14, (n, 2), generator=generator)
    axis = torch.arange(SIZE)
    inside = (axis >= corner[..., None]) & (axis < (corner + sides)[..., None])  # (n, 2, 56)
    rectangle = inside[:, 0, :, None] & inside[:, 1, None, :]
    return (rectangle | _disc(centre, radius)).to(torch.float32).mul_(0.5), centre, radius


def _disc(centre: Tensor, radius: Tensor) -> Tensor:
    """Return the masks ``(n, 56, 56)`` of the discs with these centres ``(n, 2)`` and radii ``(n,)``."""
    distance = (torch.arange(SIZE) - centre[..., None]).square_()  # (n, 2, 56)
    return distance[:, 0, :, None] + distance[:, 1, None, :] <= radius.square()[:, None, None]
