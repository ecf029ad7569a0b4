r"""Trajectories of radial sampling, and the density of any trajectory.

Frequencies are in **cycles per pixel**: the two coordinates of a sample belong to rows and columns of the image, and
k-space is the square :math:`[-\frac12, \frac12]^2`, to which all others are equivalent. Frequencies beyond it by
rounding, up to 0.501, are replaced by their equivalents; larger ones are refused. In radians per pixel a frequency is
:math:`2\pi` times as large, as an index of the Cartesian grid n times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genreg.operators.bridge.arguments import integer, number
from genreg.operators.bridge.arrays import array, check_memory
from genreg.operators.bridge.keywords import documented_like
from genreg.operators.mri.kspace_masks import check_shape

_ROUNDING = 1e-3  # of trajectories in half precision, or in a table of three digits


def radial_trajectory(spokes: int, samples: int, *, offset: float = 0.0) -> np.ndarray:
    r"""Return straight lines through the centre of k-space at equal angles.

    Spoke i has the angle `offset` :math:`+\, \pi i /` `spokes` to the first axis. Its samples have the radii
    :math:`(j - \lfloor s / 2 \rfloor) / s` for :math:`j = 0, \dots, s - 1` with s = `samples`, the frequency zero among
    them; with twice as many samples as pixels along the side of the image there is no aliasing along the spokes.

    Parameters
    ----------
    spokes : int
        Number of lines.
    samples : int
        Samples of each.
    offset : float
        Angle of the first spoke, in radians.

    Returns
    -------
    ndarray
        Frequencies in cycles per pixel, ``(spokes, samples, 2)``.

    Raises
    ------
    TypeError
        If `spokes` or `samples` are not integers.
    ValueError
        If they are not positive, or `offset` is not finite.
    """
    spokes = integer(spokes, "`spokes`", minimum=1)
    return _spokes(spokes, samples, offset, np.pi / spokes)


@documented_like(radial_trajectory)
def golden_angle_trajectory(spokes: int, samples: int, *, offset: float = 0.0) -> np.ndarray:
    r"""Return straight lines through the centre of k-space, each turned by the golden angle from the last.

    The angle is :math:`2 \pi / (1 + \sqrt 5)`, 111.25 degrees, so that any consecutive spokes cover all directions
    nearly evenly. Radii are those of `radial_trajectory`.

    References
    ----------
    S. Winkelmann, T. Schaeffter, T. Koehler, H. Eggers, O. Doessel (2007). An optimal radial profile order based on the
    golden ratio for time-resolved MRI. IEEE Transactions on Medical Imaging 26(1), 68-76. doi:10.1109/TMI.2006.885337
    """
    return _spokes(spokes, samples, offset, 2 * np.pi / (1 + np.sqrt(5)))


def _spokes(spokes: int, samples: int, offset: float, step: float) -> np.ndarray:
    spokes, samples = integer(spokes, "`spokes`", minimum=1), integer(samples, "`samples`", minimum=1)
    offset = number(offset, "`offset`")
    check_memory((spokes, samples, 2), torch.float64, "`spokes` times `samples`", spokes * samples)
    angles = offset + step * np.arange(spokes)
    radii = (np.arange(samples) - samples // 2) / samples
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]


def density_compensation(
    trajectory: ArrayLike | Tensor, shape: tuple[int, int], *, iterations: int = 30, eps: float = 1e-6
) -> np.ndarray:
    r"""Return the area of k-space that each sample stands for, in cells of the Cartesian grid.

    With F the non-uniform transform without coils, orthonormal as in `nufft`, and its rows :math:`f_i` of norm one, the
    weights that minimise :math:`\| F^H \mathrm{diag}(d)\, F - I \|` in the Frobenius norm have :math:`K d = 1` with
    :math:`K_{ij} = |\langle f_i, f_j\rangle|^2 \ge 0`. The iteration :math:`d \leftarrow d / K d` approaches it and
    keeps them positive; K acts by transforms of twice the size. A whole Cartesian grid has the weights one.

    Parameters
    ----------
    trajectory : array or Tensor
        Frequencies in cycles per pixel, ``(*samples, 2)``.
    shape : tuple of int
        Rows and columns of the image.
    iterations : int
        Number of iterations.
    eps : float
        Relative accuracy of the transforms.

    Returns
    -------
    ndarray
        Positive weights, ``(*samples,)``, for the argument `density` of `nufft`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    ImportError
        If finufft is not installed.

    References
    ----------
    J. G. Pipe, P. Menon (1999). Sampling density compensation in MRI: rationale and an iterative numerical solution.
    Magnetic Resonance in Medicine 41(1), 179-186.
    """
    from genreg.operators.mri.nufft_plans import Plans

    n, m = check_shape(shape)
    iterations = integer(iterations, "`iterations`", minimum=1)
    eps = number(eps, "`eps`", minimum=2 * torch.finfo(torch.float64).eps, maximum=0.1)
    points = check_trajectory(trajectory)
    plans = Plans((2 * n, 2 * m), points.reshape(-1, 2), eps)
    # |<f_i, f_j>|^2, a squared Dirichlet kernel, is the transform of a triangle.
    rows, columns = (1 - torch.arange(-s, s, dtype=torch.float64).abs() / s for s in (n, m))
    window = torch.outer(rows, columns) / (n * m)
    d = torch.ones(math.prod(points.shape[:-1]), dtype=torch.complex128)
    for _ in range(iterations):
        d = d / plans.sums(window * plans.adjoint(d)).abs()
    return d.real.reshape(points.shape[:-1]).numpy(force=True)


def check_trajectory(trajectory: Any) -> Tensor:
    """Return the frequencies of a trajectory as float64 on the CPU, ``(*samples, 2)``, within [-1/2, 1/2].

    Those beyond by rounding are moved by one, to the equivalent frequency at the other end.

    Raises
    ------
    TypeError
        If they are no real numbers.
    ValueError
        If the last axis has not the length 2, there is no sample, or a frequency is not finite or outside of k-space.
    """
    points = array(trajectory, "`trajectory`", complex=False).cpu().double()
    if points.ndim < 2 or points.shape[-1] != 2 or not points.numel():
        raise ValueError(f"`trajectory` must have the shape (*samples, 2), got {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("`trajectory` must be finite, got NaN or infinite frequencies")
    largest = float(points.abs().max())
    if largest > 0.5 + _ROUNDING:
        raise ValueError(
            "`trajectory` must lie in k-space, [-1/2, 1/2] cycles per pixel along both axes, got frequencies up to "
            f"{largest:.4g}; divide radians per pixel by 2 pi, indices of a grid by its size"
        )
    return torch.where(points.abs() > 0.5, points - points.sign(), points)
