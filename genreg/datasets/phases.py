r"""Complex images for training, made from magnitude images: smooth random phases and coil-like shading."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genreg.operators.bridge.arguments import number, seeded_generator

_POLYNOMIAL = {1: 1.2, 2: 0.8, 3: 0.3}
"""Standard deviations in radians of the coefficients of the monomials of each degree, on [-1, 1]^2."""


def complex_images(
    magnitudes: Tensor,
    *,
    seed: int | torch.Generator,
    phase: float = 1.0,
    shading: float = 1.0,
) -> Tensor:
    r"""Give magnitude images random smooth phases and the shading of a receiving coil.

    .. math:: x = m \, b \, e^{i \varphi}, \qquad
              \varphi(u, v) = \varphi_0 + \sum_{1 \le j + k \le 3} c_{jk} u^j v^k + g(u, v), \qquad
              b = e^{h - \max h},

    on :math:`(u, v) \in [-1, 1]^2`, with :math:`\varphi_0` uniform on the circle, Gaussian coefficients
    :math:`c_{jk}` (standard deviation 1.2, 0.8 and 0.3 for the degrees 1, 2 and 3) and a Gaussian field g of standard
    deviation 0.5 and of a correlation length between 0.2 and 0.6; h is a polynomial of degree 2 plus such a field, so
    that b falls off by a factor of about two to four over the image.

    What it represents: the arbitrary phase of a receiver, echoes that are off centre (a linear phase), the slowly
    varying part of an inhomogeneous main field, the phase of a coil, and the shading of coils, combined or single.

    What it does not: the steep phase and the loss of signal at air (sinuses, ear canals), whose wraps lie a few pixels
    apart; flow, which gives vessels a phase of their own; the chemical shift of fat, whose phase jumps at its border;
    magnetic susceptibility of veins, iron and blood, which is what phase images are taken for; ghosts, motion and
    multi-shot phase errors. A model that is trained on these images alone believes that phase is smooth, and takes
    those for residuals.

    Parameters
    ----------
    magnitudes
        Images m, real, not negative, ``(N, n, m)``.
    seed
        Seed of the random numbers, or their generator.
    phase, shading
        Factors of all of φ but its constant, and of h; 0 for none.

    Returns
    -------
    Tensor
        Complex images, ``(N, n, m)``; their largest value is at most that of the magnitudes.

    Raises
    ------
    TypeError, ValueError
        If the magnitudes are no real, finite, non-negative images, or a factor is negative.
    """
    m = _checked(magnitudes)
    phase, shading = number(phase, "phase", minimum=0), number(shading, "shading", minimum=0)
    random = seeded_generator(seed)
    count, rows, columns = m.shape
    u = torch.linspace(-1, 1, rows)[:, None]
    v = torch.linspace(-1, 1, columns)

    def polynomial(deviations: dict[int, float]) -> Tensor:
        monomials = [(j, d - j, s) for d, s in deviations.items() for j in range(d + 1)]
        c = torch.randn((count, len(monomials), 1, 1), generator=random)
        return sum(s * c[:, k] * u**j * v**i for k, (j, i, s) in enumerate(monomials))  # type: ignore[return-value]

    constant = 2 * math.pi * torch.rand((count, 1, 1), generator=random)
    angle = polynomial(_POLYNOMIAL) + 0.5 * smooth_fields(count, (rows, columns), seed=random)
    h = polynomial({1: 0.25, 2: 0.25}) + 0.2 * smooth_fields(count, (rows, columns), seed=random)
    b = (shading * (h - h.amax((1, 2), keepdim=True))).exp()
    return torch.polar((m * b.to(m)).contiguous(), (constant + phase * angle).to(m))


def smooth_fields(
    n: int,
    size: tuple[int, int],
    *,
    seed: int | torch.Generator,
    lengths: tuple[float, float] = (0.2, 0.6),
) -> Tensor:
    r"""Draw smooth Gaussian fields of mean 0 and variance 1 on :math:`[-1, 1]^2`.

    The covariance is :math:`e^{-d^2 / (2 \ell^2)}`, d the distance along the image, whose larger side has the length 2;
    white noise is convolved with the Gaussian whose square that is.

    Parameters
    ----------
    n
        Number of fields.
    size
        Rows and columns.
    seed
        Seed of the random numbers, or their generator.
    lengths
        Least and largest correlation length ℓ, which is drawn between them for every field.

    Returns
    -------
    Tensor
        Float32, ``(n, rows, columns)``.

    Raises
    ------
    ValueError
        If the lengths are not positive, or out of order.
    """
    least, most = (number(length, "lengths", above=0) for length in lengths)
    if least > most:
        raise ValueError(f"lengths must be the least and the largest, got {lengths}")
    random = seeded_generator(seed)
    ell = least + (most - least) * torch.rand((n, 1, 1), generator=random)
    factors = []
    for side in size:
        half = side / max(size)
        step = least / 2  # of the noise, fine enough for the narrowest kernel
        reach = half + 3 * most
        knots = torch.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1)
        places = torch.linspace(-half, half, side)[:, None]
        kernel = (-((places - knots) / ell).square()).exp()  # (n, side, knots)
        factors.append(kernel / kernel.square().sum(2, keepdim=True).sqrt())
    noise = torch.randn((n, factors[0].shape[2], factors[1].shape[2]), generator=random)
    return factors[0] @ noise @ factors[1].mT


def _checked(magnitudes: Any) -> Tensor:
    if not isinstance(magnitudes, Tensor) or not magnitudes.is_floating_point():
        kind = magnitudes.dtype if isinstance(magnitudes, Tensor) else type(magnitudes).__name__
        raise TypeError(f"magnitudes must be a real tensor of floating type, got {kind}")
    if magnitudes.ndim != 3 or not magnitudes.numel():
        raise ValueError(f"magnitudes must have the shape (N, n, m), got {tuple(magnitudes.shape)}")
    if not bool(torch.isfinite(magnitudes).all()) or float(magnitudes.min()) < 0:
        raise ValueError("magnitudes must be finite and not negative, got other values")
    return magnitudes
