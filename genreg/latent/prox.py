r"""Proximal operators of latent terms: formulas on tensors, in the Euclidean norm."""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor

_NEWTON = 16  # reaches rounding for |q - 1| >= 1e-4; Newton's method is monotone in both cases


def power_prox(t: Tensor, step: Tensor, q: float) -> Tensor:
    r"""Minimise :math:`\tau |u|^q + (u - t)^2 / 2` over u, for every component.

    Parameters
    ----------
    t
        Points.
    step
        The steps τ >= 0, which broadcast against `t`.
    q
        The exponent, in (0, 2].

    Returns
    -------
    Tensor
        The global minimiser; of two, which q < 1 has at its threshold, the smaller one.
    """
    if q == 1:
        return t - t.clamp(-step, step)
    if q == 2:
        return t / (1 + 2 * step)
    modulus = t.abs()
    step = step.clamp_min(torch.finfo(t.dtype).tiny)
    return torch.copysign((_convex if q > 1 else _nonconvex)(modulus, step, q), t)


def _convex(t: Tensor, step: Tensor, q: float) -> Tensor:
    r"""Solve :math:`u + \tau q u^{q - 1} = t` for u >= 0, with 1 < q < 2.

    In s = log u this says that the log-sum-exp of two lines is log t: a convex increasing function, to whose
    zero Newton's method descends from the smaller of the zeros of the lines.
    """
    smallest = torch.finfo(t.dtype).tiny
    log_t = t.clamp_min(smallest).log()
    slope = (step * q).log()
    s = torch.minimum(log_t, (log_t - slope) / (q - 1))
    for _ in range(_NEWTON):
        first, second = s - log_t, (q - 1) * s + slope - log_t
        total = torch.logaddexp(first, second)
        s = s - total / ((first - total).exp() + (q - 1) * (second - total).exp())
    u = s.exp()
    remainder = t - (slope + (q - 1) * s).exp()  # the more precise of the two where u is the larger part
    u = torch.where(remainder > t / 2, remainder, u)
    return torch.where(t <= smallest, 0.0, u)


def _nonconvex(t: Tensor, step: Tensor, q: float) -> Tensor:
    r"""Find the global minimiser for 0 < q < 1 and t >= 0.

    It is 0 up to the threshold :math:`h = \beta + \tau q \beta^{q - 1}` with :math:`\beta = (2 \tau (1 -
    q))^{1 / (2 - q)}`, and above it the root of :math:`u - t + \tau q u^{q - 1}` that is larger than β. There
    the function is convex and increasing, and Newton's method descends to the root from t.

    References
    ----------
    G. Marjanovic, V. Solo (2012), On l_q optimization and matrix completion, doi:10.1109/TSP.2012.2212015.
    """
    beta = (2 * (1 - q) * step).pow(1 / (2 - q))
    threshold = beta + q * step * beta.pow(q - 1)
    target = torch.maximum(t, threshold)
    u = target
    for _ in range(_NEWTON):
        slope = q * step * u.pow(q - 1)
        u = u - (u - target + slope) / (1 + (q - 1) * slope / u)
    return torch.where(t <= threshold, 0.0, u)


def project_to_sphere(t: Tensor, axes: tuple[int, ...], radius: float) -> Tensor:
    """Project samples to the sphere around 0; the sample 0 goes to its point on the first axis."""
    largest = t.abs().amax(axes, keepdim=True)
    zero = largest == 0
    unit = t / torch.where(zero, 1.0, largest)  # squares of its components neither over- nor underflow
    first = torch.zeros_like(unit)
    origin: tuple[EllipsisType | int, ...] = (..., *(0 for _ in axes))
    first[origin] = 1.0
    unit = torch.where(zero, first, unit)
    return unit * (radius / torch.linalg.vector_norm(unit, dim=axes, keepdim=True))
